"""The shippable model: plain weights, a record of what they are (whole beside them, what is needed to use them within), and a script that loads them.

The record of an exported file is read without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from distillctl import state
from distillctl.entries import Malformed
from distillctl.errors import CheckpointError, UserError
from distillctl.files import TEXT_LIMIT, exists, hash_of, parse_json, read_json
from distillctl.formats import by_file, form_of
from distillctl.models.record import Record
from distillctl.models.seen import is_of_images, seen_in

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "distillctl"  # the entry of a file's metadata that its record rides in


def ship(
    folder: Path, role: str, weights: Mapping[str, Tensor], record: Record, script: str, beside: Mapping[str, bytes] | None = None
) -> Record:
    """Write `<role>.safetensors`, `load_<role>.py`, the files `beside` and, last, `<role>.json` into a stage's folder. Returns the record."""
    from safetensors.torch import save as safetensors_bytes

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    content = safetensors_bytes(tensors, {METADATA: json.dumps(record.essence(), sort_keys=True)})
    complete = replace(record, sha256=hashlib.sha256(content).hexdigest())
    state.write_atomically(folder / f"{role}.safetensors", [content])
    state.write_atomically(folder / f"load_{role}.py", [script.encode()])
    for name, held in (beside or {}).items():
        state.write_atomically(folder / name, [held])
    state.write_json(folder / f"{role}.json", complete.to_json())
    return complete


def describe(file: Path, record: Record) -> Record:
    """Write the record of an exported file beside it. Returns it with the file's checksum."""
    seen = file.stat()
    complete = replace(record, sha256=checksum(file, seen.st_mtime_ns, seen.st_size))
    state.write_json(file.with_suffix(".json"), complete.to_json())
    return complete


def read_record(weights: Path, key: str) -> Record | None:
    """The record beside a file of weights, else the one in it; None where there is none. Raises CheckpointError where file and record differ."""
    file = weights.with_suffix(".json")
    if weights.suffix != ".safetensors" and by_file(weights) is None:
        return None
    if not exists(file):
        return riding_record(weights, key) if weights.is_file() else None
    try:
        record = checked(parsed(file))
    except state.NewerFormat as error:
        raise state.NewerFormat(f"{key}: {file} {error}") from None
    except Malformed as error:
        raise CheckpointError(f"{key}: {file} is not the record of a model ({error}); move it away to use the weights without it") from None
    try:
        seen = weights.stat()
        found = checksum(weights, seen.st_mtime_ns, seen.st_size)
    except OSError as error:
        raise CheckpointError(f"{key}={weights}: cannot be read ({error.strerror})") from None
    except CheckpointError as error:
        raise CheckpointError(f"{key}={weights}: {str(error).removeprefix(f'{weights}: ')}") from None
    if found != record.sha256:
        raise CheckpointError(f"{key}: {weights} is damaged, or not the file that {file.name} describes (checksum mismatch)")
    return record


def checked(content: Any) -> Record:
    """A record whose inputs are known here too. Raises Malformed and NewerFormat."""
    record = Record.from_json(content)
    if record.exported is not None and is_of_images(record):
        seen_in(record)
    else:
        from distillctl import inputs

        inputs.from_record(record)
    return record


def parsed(file: Path) -> Any:
    try:
        return read_json(file)
    except OSError as error:
        raise Malformed(str(error.strerror)) from None
    except ValueError:
        raise Malformed("no JSON that can be read") from None


def riding_record(weights: Path, key: str) -> Record | None:
    """The record in the metadata of a file that came without its .json; None where there is none, or the file is not whole."""
    try:
        if by_file(weights) is not None:
            told = told_by(weights, weights.stat().st_mtime_ns, weights.stat().st_size)
        else:
            with safe_open(weights, "numpy") as file:
                told = (file.metadata() or {}).get(METADATA)
    except UserError as error:
        raise type(error)(f"{key}={weights}: {str(error).removeprefix(f'{weights}: ')}") from None
    except Exception:  # whoever reads the weights says what is wrong with them
        return None
    if told is None:
        return None
    try:
        if len(told) > TEXT_LIMIT:
            raise Malformed(f"more than {TEXT_LIMIT:,} characters")
        record = checked(parse_json(told))
    except state.NewerFormat as error:
        raise state.NewerFormat(f"{key}={weights}: its record {error}") from None
    except (Malformed, ValueError) as error:
        reason = error if isinstance(error, Malformed) else "no JSON that can be read"
        raise CheckpointError(
            f"{key}={weights}: its metadata is not the record of a model ({reason}); copy it anew, with its .json"
        ) from None
    seen = weights.stat()
    return replace(record, sha256=checksum(weights, seen.st_mtime_ns, seen.st_size))


@cache
def told_by(file: Path, modified_ns: int, size: int) -> str | None:
    """What an exported file says of itself, once for each state of it: whoever runs it has to read all of it for that."""
    return form_of(file).metadata(file).get(METADATA)


def with_precision(metadata: Mapping[str, str], precision: str) -> dict[str, str]:
    """The metadata of a file, of numbers of that precision; a record in it that is no JSON mapping stays as it is."""
    try:
        essence = json.loads(metadata.get(METADATA, ""))
    except ValueError:
        return dict(metadata)
    if not isinstance(essence, dict) or not isinstance(essence.setdefault("exported", {}), dict):
        return dict(metadata)
    essence["exported"]["precision"] = precision
    return {**metadata, METADATA: json.dumps(essence, sort_keys=True)}


@cache
def checksum(weights: Path, modified_ns: int, size: int) -> str:
    """SHA-256 of a file and what belongs to it, once for each state of it: several checks of a run ask."""
    form = by_file(weights)
    return hash_of(weights) if form is None else form.digest(weights)
