"""Read many image files at once, in a fixed order."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from distillctl.data.image.files import BadImage, decodes, open_with_remarks, resize_and_center_crop
from distillctl.errors import MachineError
from distillctl.files import open_file
from distillctl.rank import processors

Answer = TypeVar("Answer")
CHUNK = 128  # files a task
# Below this, Pillow's Python part outweighs the decoding, which alone runs beside other threads: measured at 32 pixels, two threads
# took 1.2 to 1.4 times as long as one; the two were equal at about 90 pixels.
SMALL_FILE_BYTES = 4096
HEAD_BYTES = 16 * 1024


def in_memory(files: Sequence[Path], size: int, max_pixels: int) -> tuple[Tensor, Counter[str]]:
    """All files as uint8 [N, 3, size, size], whole along the short edge, and how many were converted from what."""
    pixels = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def read(position: int) -> tuple[str, ...]:
        image, remarks = open_with_remarks(files[position], max_pixels)
        pixels[position] = resize_and_center_crop(image, size, ratio=1.0)
        return remarks

    return pixels, Counter(remark for remarks in in_threads(read, files) for remark in remarks)


def unreadable(files: Sequence[Path], max_pixels: int) -> dict[int, str]:
    """Decode every file once: position and message of those that cannot be used."""

    def check(position: int) -> str:
        try:
            decodes(files[position], max_pixels)
        except BadImage as problem:
            return str(problem)
        return ""

    return {position: message for position, message in enumerate(in_threads(check, files)) if message}


def common_edge(files: Sequence[Path], largest: int, max_pixels: int) -> int | None:
    """The edge that all images have, if all are equal squares of at most `largest` pixels. Headers only, and no more than needed."""

    def edge(position: int) -> int:
        with open_with_remarks(files[position], max_pixels)[0] as image:
            return image.width if image.width == image.height <= largest else 0

    first = edge(0)
    if not first or any(other != first for other in in_threads(edge, files)):
        return None
    return first


def heads(files: Sequence[Path]) -> list[bytes]:
    """A digest of the first bytes of each file; of one that cannot be read, its own name."""

    def head(position: int) -> bytes:
        try:
            with open_file(files[position]) as file:
                return hashlib.blake2b(file.read(HEAD_BYTES), digest_size=16).digest()
        except OSError:
            return os.fsencode(files[position])

    return list(in_threads(head, files))


def in_threads(work: Callable[[int], Answer], files: Sequence[Path]) -> Iterator[Answer]:
    """`work` of the position of every file, in order. The first failure, in that order, is raised and ends the rest."""

    def chunk(start: int) -> list[Answer]:
        return [work(position) for position in range(start, min(start + CHUNK, len(files)))]

    small = not files or os.path.exists(files[0]) and os.path.getsize(files[0]) < SMALL_FILE_BYTES
    pool = ThreadPoolExecutor(1 if small else processors())
    try:
        for answers in pool.map(chunk, range(0, len(files), CHUNK)):
            yield from answers
    finally:  # also where whoever asked has seen enough
        pool.shutdown(cancel_futures=True)


def check_memory(count: int, size: int, key: str) -> None:
    """Raise before, and not after, a set fills the machine."""
    needed = count * 3 * size * size
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > 0.9 * there:
            raise MachineError(f"{key} needs {needed / 2**30:.1f} GiB, this machine has {there / 2**30:.1f}; set dataset.in_memory=never")
