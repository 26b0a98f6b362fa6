"""Read a file of weights, however it was wrapped, without ever running code that it holds."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillctl.errors import CheckpointError
from distillctl.files import open_file
from distillctl.models.fitting import fit
from distillctl.models.pickles import StandIn, acts, is_plain, names_in, stand_in

WRAPPERS = ("state_dict", "model", "model_state", "ema", "state_dict_ema", "net", "model_ema")
DEEPEST = 4  # mappings within mappings
MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x93NUMPY": "numpy",
    b"\x89HDF": "HDF5",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not fetched",
}


def read_weights(path: str | Path, key: str, own: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name. `key` is the setting that named the file: `teacher.checkpoint`.

    own: the entries of the net that they are for, by which of several sets of weights in a file one is chosen.
    """
    path = Path(path)
    where = f"{key}={path}"
    head = _head(path, where)
    if head.startswith(b"PK\x03\x04"):
        content = _read_zip(path, where)
    elif head.startswith(b"\x80") and head[1:2] <= b"\x05":  # a pickle names its protocol
        content = _read_torch(path, where)
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:  # the length of a header, which is at most 100 MB
        content = _read_safetensors(path, where)
    else:
        raise CheckpointError(f"{where}: not a checkpoint (looks like {_kind(head)})")
    chosen = _choose(content, where, own)
    for entry, tensor in chosen.items():
        if kind := _odd_kind(tensor):
            raise CheckpointError(f"{where}: {entry} is {kind}; save it as a plain tensor, as by .float()")
    return chosen


def _odd_kind(tensor: Tensor) -> str:
    """What a tensor is that nothing can be computed with as with weights; empty for all others."""
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        return "nested, quantized or sparse"
    if tensor.is_meta:
        return "without values (on the meta device)"
    return f"of {str(tensor.dtype).removeprefix('torch.')}" if tensor.is_floating_point() and tensor.itemsize < 2 else ""


def _head(path: Path, where: str) -> bytes:
    if os.path.isdir(path):
        raise CheckpointError(f"{where}: a folder, not a file of weights")
    try:
        with open_file(path) as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{where}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from None
    if not head:
        raise CheckpointError(f"{where}: an empty file (0 bytes)")
    return head


def _kind(head: bytes) -> str:
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML: a web page was saved in its place"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if b"\x00" not in head and head.isascii():
        return "text"
    return "an unknown format"


def _read_safetensors(path: Path, where: str) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except Exception:  # a damaged file can raise anything: SafetensorError, KeyError, struct.error ...
        raise CheckpointError(f"{where}: truncated or damaged (no valid safetensors)") from None


def _read_zip(path: Path, where: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # as above: BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error ...
        raise CheckpointError(f"{where}: truncated or damaged") from None
    names = {member.filename.rpartition("/")[2] for member in members}
    if "constants.pkl" in names:
        raise CheckpointError(f"{where}: not a checkpoint (looks like TorchScript); save the state_dict of the model instead")
    if "data.pkl" not in names:
        raise CheckpointError(f"{where}: not a checkpoint (looks like a zip archive)")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        # torch.save never compresses; a few bytes that unpack to gigabytes would
        raise CheckpointError(f"{where}: not a checkpoint (looks like a compressed zip archive)")
    return _read_torch(path, where)


def _read_torch(path: Path, where: str) -> Any:
    """What torch reads by itself; where a file names other classes too, as settings do that lie beside weights, with stand-ins for these."""
    for foreign in ((), tuple(dict.fromkeys(name for name in names_in(path) if not is_plain(name)))):
        if code := next((name for name in foreign if acts(name)), None):
            raise _refused(where, code)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([(stand_in(name), name) for name in foreign]):
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # as above; what the message says is torch's and changes, so it is not read
            continue
    if foreign:
        raise _refused(where, foreign[0])
    raise CheckpointError(f"{where}: truncated or damaged")


def _refused(where: str, code: str) -> CheckpointError:
    return CheckpointError(f"{where}: refused: it holds code ({code}); only plain weights are read, so save the state_dict of the model")


def _choose(content: Any, where: str, own: Collection[str]) -> dict[str, Tensor]:
    """Of all sets of weights in a file the one that fits `own` best; of equals the one that is called as most people call it, then the largest."""
    if isinstance(content, Tensor):
        raise CheckpointError(f"{where}: holds one tensor, not the weights of a model")
    if isinstance(content, StandIn):
        raise _refused(where, content.name)
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: holds a {type(content).__name__}, not the weights of a model")
    found = list(_sets(content))
    if found:
        rank = {wrapper: -place for place, wrapper in enumerate(WRAPPERS)}
        return max(found, key=lambda each: (fit(each[1], own), rank.get(each[0], -len(WRAPPERS)), len(each[1])))[1]
    plain = dict(_items(content))
    if code := next((value.name for value in plain.values() if isinstance(value, StandIn) and not value.inert), None):
        raise _refused(where, code)
    inner = next((plain[wrapper] for wrapper in WRAPPERS if isinstance(plain.get(wrapper), dict)), plain)
    shown = ", ".join(str(entry) for entry, _ in _items(inner)[:6]) or "none"
    raise CheckpointError(f"{where}: holds no weights of a model (its keys: {shown})")


def _sets(content: dict[Any, Any], key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors in a file, with the key that it lies under; what else lies in one is left out."""
    tensors = {entry: value.detach() for entry, value in _items(content) if isinstance(entry, str) and isinstance(value, Tensor)}
    if tensors:
        yield key, tensors
    for entry, value in _items(content):
        if isinstance(entry, str) and isinstance(value, dict) and depth < DEEPEST:
            yield from _sets(value, entry, depth + 1)


def _items(content: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """A file can give a mapping attributes, one of which may hide its methods."""
    return list(dict.items(content))
