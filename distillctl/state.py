"""Checkpoint files: written so that a crash at any instant leaves a valid one, read so that damage is noticed.

A file is a payload by `torch.save`, a JSON description and a footer: lengths, SHA-256 of all before it, magic.
A folder holds `last.pt` and the one before it, `previous.pt`. Saving writes a temporary file, fsyncs it, renames
last to previous, renames the temporary file to last and fsyncs the folder: in whatever order the two renames
reach the disk, one of the two names holds the newest complete state or the one before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillctl.errors import CheckpointError, Diverged, MachineError
from distillctl.files import open_file, open_folder, open_to_write, read_bytes

FORMAT_VERSION = 1
MAGIC = b"DSTLCTL1"
FOOTER = struct.Struct("<QQ32s8s")  # payload bytes, description bytes, SHA-256, magic
NEWEST, BEFORE, DAMAGED = "last.pt", "previous.pt", "damaged.pt"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NewerFormat(CheckpointError):
    """A checkpoint of a later distillctl."""


def save(folder: Path, state: Mapping[str, Any], description: Mapping[str, Any]) -> Path:
    """Write `state` as the folder's newest checkpoint; the one before stays. Returns after it is on the disk."""
    assert_plain(state)
    buffer = io.BytesIO()
    import torch

    torch.save(state, buffer)
    payload = buffer.getbuffer()
    about = json.dumps({"format_version": FORMAT_VERSION, **description}).encode()
    digest = hashlib.sha256(payload)
    digest.update(about)
    newest = folder / NEWEST
    footer = FOOTER.pack(len(payload), len(about), digest.digest(), MAGIC)

    def rotate() -> None:
        if newest.exists():
            os.replace(newest, folder / BEFORE)

    write_atomically(newest, [payload, about, footer], before_rename=rotate)
    return newest


def write_atomically(path: Path, pieces: list[Any], before_rename: Callable[[], None] = lambda: None, links: bool = True) -> None:
    """Temporary file in the same folder, fsync, rename, fsync of the folder. Raises MachineError, with the old file intact.

    links: whether the folder may be a link to one, as where nobody else writes.
    """
    temporary = f".{path.name}.{os.getpid()}.tmp"
    try:
        folder = open_folder(path.parent, links)
    except OSError as error:
        raise not_written(path, pieces, error) from None
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)  # of a process that was killed, or a trap: what is written into is always new
        with os.fdopen(open_to_write(temporary, os.O_WRONLY | os.O_EXCL, at=folder), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)  # makes the rename durable
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise not_written(path, pieces, error) from None
    finally:
        os.close(folder)


def not_written(path: Path, pieces: list[Any], error: OSError) -> MachineError:
    size = sum(len(piece) for piece in pieces) / 2**20
    way_out = "free some space and resume" if error.errno in NO_SPACE else "mend that and resume"
    return MachineError(f"{path}: {error.strerror} while writing {size:.1f} MiB; what was saved before is intact, {way_out}")


def write_json(path: Path, content: Any, links: bool = True) -> None:
    """A JSON file, written atomically."""
    write_atomically(path, [(json.dumps(content, indent=2, allow_nan=False) + "\n").encode()], links=links)


def finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and description of one checkpoint file. Raises CheckpointError for whatever is not one, whole and ours."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if not content:
        raise CheckpointError(f"{path}: 0 bytes")
    if len(content) < FOOTER.size or content[-len(MAGIC) :] != MAGIC:
        raise CheckpointError(f"{path}: truncated, or not a checkpoint of distillctl (no end mark)")
    payload_size, about_size, expected, _ = FOOTER.unpack(content[-FOOTER.size :])
    if payload_size + about_size + FOOTER.size != len(content):
        raise CheckpointError(f"{path}: damaged (lengths do not add up)")
    body = memoryview(content)[: payload_size + about_size]
    if hashlib.sha256(body).digest() != expected:
        raise CheckpointError(f"{path}: damaged (checksum mismatch)")
    try:
        description = json.loads(bytes(body[payload_size:]))
        version = description["format_version"]
        if version > FORMAT_VERSION:
            writer = str(description.get("versions", {}).get("distillctl", "")) or "(a newer one)"
            raise NewerFormat(f"{path}: written by distillctl {writer[:40]} in format {version}, this one reads {FORMAT_VERSION}; upgrade")
        import torch

        return torch.load(io.BytesIO(body[:payload_size]), weights_only=True, map_location="cpu"), description
    except NewerFormat:
        raise
    except Exception as error:  # whole, so somebody made it like this: there is no end to what may be in it
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path}: not a checkpoint of distillctl ({type(error).__name__}: {reason})") from None


def newest(folder: Path, warn: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The newest valid checkpoint of a folder; None where there never was one.

    A damaged newest one is named in a warning, put aside as `damaged.pt` and the one before is used; if both are damaged,
    CheckpointError. One of a newer distillctl is not damaged: it is never passed over for an older one.
    """
    problems: list[str] = []
    for name in (NEWEST, BEFORE):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = load(path)
        except NewerFormat:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"{problem}; going on from {path.name}, the one before")
            os.replace(folder / NEWEST, folder / DAMAGED)  # the next save would put it in the place of the good one
        return found
    if problems:
        raise CheckpointError(f"{'; '.join(problems)}: no checkpoint is left to resume from; start without resume=")
    return None


def described(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint of a folder says of itself, without its tensors; None where that cannot be told. Changes nothing."""
    for path in (folder / NEWEST, folder / BEFORE):
        try:
            with open_file(path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - FOOTER.size))
                payload_size, about_size, _, magic = FOOTER.unpack(file.read(FOOTER.size))
                if magic == MAGIC and payload_size + about_size + FOOTER.size == size:
                    file.seek(payload_size)
                    found = json.loads(file.read(about_size))
                    return found if isinstance(found, dict) else None
        except (OSError, ValueError, struct.error):
            continue
    return None


def assert_plain(value: Any, place: str = "state") -> None:
    """Refuse at save what `torch.load(weights_only=True)` would refuse at resume, and what must never be kept."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Diverged(f"{place} is no longer finite; the last good checkpoint is kept: lower optimizer.lr or set trainer.clip_norm=1")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{place}: key {key!r} may not be put into a checkpoint")
            assert_plain(item, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            assert_plain(item, f"{place}[{position}]")
    elif type(value) not in (int, float, bool, str, type(None)):
        raise TypeError(f"{place}: {type(value).__module__}.{type(value).__name__} may not be put into a checkpoint")
