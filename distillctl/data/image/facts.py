"""Measure what splits contain: statistics, fingerprint, duplicates."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillctl.data.image.reading import heads
from distillctl.data.split import Split

MOST_HEADS = 200_000  # files opened to look for duplicates

Channels = tuple[float, float, float]


def statistics(images: Tensor) -> tuple[Channels, Channels]:
    """Mean and standard deviation by channel, of pixels in [0, 1]; exact, by counting the 256 values."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.zeros(256, dtype=torch.float64)
        for piece in channel.split(4096):  # bincount makes int64 of what it counts, eight times the bytes
            share += torch.bincount(piece.flatten(), minlength=256)
        share /= channel.numel()
        mean = float((share * levels).sum())
        means.append(mean)
        deviations.append(max(float((share * (levels - mean) ** 2).sum()) ** 0.5, 1 / 255))  # a constant channel must not divide by 0
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def fingerprint(name: str, classes: Sequence[str], size: int, parts: Sequence[Split], content: bytes) -> str:
    """SHA-256 of a set: its name, classes, image size, which samples each split has, and a digest of their content in that order."""
    digest = hashlib.sha256(ascii((name, tuple(classes), size, [len(part) for part in parts])).encode() + content)
    for part in parts:
        digest.update(part.targets.numpy().astype("<i8").tobytes() + part.index.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def pixel_digest(parts: Sequence[Tensor]) -> bytes:
    """Of images in memory: every byte."""
    digest = hashlib.sha256()
    for images in parts:
        digest.update(images.contiguous().numpy().data)
    return digest.digest()


def file_digest(files: Sequence[Path], sizes: Mapping[Path, int], root: Path, excused: Collection[str] = ()) -> bytes:
    """Of files: their names below the root and their sizes, but not of those that are excused. Reading a large set whole would take longer than an epoch."""
    digest, unsized = hashlib.sha256(), {root / name for name in excused}
    for path in files:
        digest.update(os.fsencode(path.relative_to(root)) + (b"\0?\0" if path in unsized else b"\0%d\0" % sizes[path]))
    return digest.digest()


@dataclass(frozen=True)
class Listed:
    """Files on the disk as they were listed: the splits, bad files at their places among them, and the bytes of each."""

    root: Path
    splits: Sequence[Split]
    sizes: Mapping[Path, int]

    def fingerprint(self, name: str, classes: Sequence[str], size: int, excused: Collection[str]) -> str:
        """What a set's fingerprint would be if nobody knew how large the excused files are."""
        files = [path for part in self.splits if isinstance(part.inputs, list) for path in part.inputs]
        return fingerprint(name, classes, size, self.splits, file_digest(files, self.sizes, self.root, excused))


def duplicate_pixels(train: Tensor, val: Tensor, test: Tensor) -> list[str]:
    """Notes on images that occur in two splits."""
    return _duplicates(*([hashlib.blake2b(image.data, digest_size=16).digest() for image in part.numpy()] for part in (train, val, test)))


def duplicate_files(parts: Sequence[Sequence[Path]], sizes: Mapping[Path, int]) -> list[str]:
    """The same for the files of train, val and test: equal size and equal first bytes. Sizes found in one split only are not looked at."""
    occurs = Counter(size for part in parts for size in {sizes[path] for path in part})
    alike = [[path for path in part if occurs[sizes[path]] > 1] for part in parts]
    if sum(map(len, alike)) > MOST_HEADS:
        return [f"duplicates between splits were not looked for: more than {MOST_HEADS} files would have to be opened"]
    return _duplicates(*([b"%d " % sizes[path] + head for path, head in zip(files, heads(files), strict=True)] for files in alike))


def _duplicates(train: Sequence[bytes], val: Sequence[bytes], test: Sequence[bytes]) -> list[str]:
    notes = []
    seen = set(train)
    if count := sum(image in seen for image in val):
        notes.append(f"{count} validation images are in the training split too")
    seen.update(val)
    if count := sum(image in seen for image in test):
        notes.append(f"{count} test images are in the training or validation split too")
    return notes
