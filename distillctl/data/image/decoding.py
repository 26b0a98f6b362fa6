"""Decode images once before anything is trained on them, and remember for whole lists of files that this was done."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import PIL

from distillctl import state
from distillctl.data.image import reading
from distillctl.errors import UserError
from distillctl.files import TEXT_LIMIT, parse_json, read_trusted
from distillctl.paths import cache_folder

WORTH_KEEPING_S = 2.0  # what took less is as soon done again, and leaves no file


def checked(files: Sequence[Path], max_pixels: int) -> dict[Path, str]:
    """The files that cannot be read, each with its message. A JPEG is decoded at an eighth: all its bytes are read, in half the time.

    A list that was looked at before is not decoded again unless the place, size or time of one of its files is another.
    """
    if not files:
        return {}
    place = place_of(files, max_pixels)
    found = remembered(place)
    if found is None:
        start = time.monotonic()
        found = reading.unreadable(files, max_pixels)
        if time.monotonic() - start > WORTH_KEEPING_S:
            with contextlib.suppress(OSError, UserError):  # it is but looked for again
                place.parent.mkdir(parents=True, exist_ok=True)
                state.write_json(place, {str(position): message for position, message in found.items()})
    return {files[position]: message for position, message in found.items() if position < len(files)}


def place_of(files: Sequence[Path], max_pixels: int) -> Path:
    """Where is remembered what was found of these files, beside what teachers answered."""
    digest = hashlib.sha256(f"{PIL.__version__} {max_pixels}".encode())
    for file in files:
        with contextlib.suppress(OSError):  # of one that is not there its name says so
            info = os.stat(file)
            digest.update(b"%d %d " % (info.st_size, info.st_mtime_ns))
        digest.update(os.fsencode(os.path.abspath(file)) + b"\0")
    return cache_folder() / "decoded" / f"{digest.hexdigest()[:32]}.json"


def remembered(place: Path) -> dict[int, str] | None:
    """Messages by position; None where nothing is known, or somebody else says so."""
    try:
        content = parse_json(read_trusted(place, limit=TEXT_LIMIT))
        return {int(position): str(message) for position, message in content.items() if int(position) >= 0}
    except (OSError, ValueError, AttributeError):
        return None
