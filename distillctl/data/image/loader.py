"""Batches of images: in memory by gathering, from files by workers; augmented for training, in the middle for measuring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distillctl.data.image import files as images
from distillctl.data.image.augment import FILE_SCHEME, VIEW_SCHEME, Augment
from distillctl.data.image.files import BadImage
from distillctl.data.image.parts import WAY_OUT
from distillctl.data.loader import Place, PlainLoader, TrainLoader
from distillctl.data.split import Split
from distillctl.data.workers import Workers, read_by_workers
from distillctl.draws import permutation
from distillctl.types import Batch, Inputs


@dataclass(frozen=True)
class ReadOptions:
    """How files are read: by how many workers, with how much patience, at which size."""

    image_size: int
    workers: int = 0
    timeout_s: int = 300
    max_pixels: int = 50_000_000


class ImageLoader(TrainLoader):
    """Augmented batches. Equal (view seed, view, index) gives equal images on any machine; partners of samples that are mixed depend on the view."""

    memory: Tensor | None

    def __init__(
        self, split: Split, augment: Augment, batch_size: int, seed: int, place: Place, reading: ReadOptions, views: int | None = None
    ):
        super().__init__(split, batch_size, seed, place, views)
        self.augment, self.reading = augment, reading

    @property
    def workers(self) -> int:
        return self.reading.workers

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        return self.augment.mixes

    def show(self, pieces: Sequence[Tensor], view: int) -> Iterator[Batch]:
        partners = self.augment.partners(len(self.split), view) if self.augment.mixes else None
        if self.memory is None:
            yield from self.from_files(pieces, view, partners)
            return
        for row in pieces:
            yield self.from_memory(row.to(self.place.device), view, partners)

    def shuffled(self, epoch: int) -> Tensor:
        """All positions in the split, in a drawn order; where samples are mixed, partners stay neighbours so that each is read once."""
        if not self.augment.mixes:
            return super().shuffled(epoch)
        count = len(self.split)
        partners = self.augment.partners(count, self.view_of(epoch))
        firsts = torch.arange(count)[torch.arange(count) <= partners]
        firsts = firsts[permutation(len(firsts), self.seed, "order", epoch)]
        pairs = torch.stack([firsts, partners[firsts]], dim=1).flatten()
        repeated = torch.stack([torch.zeros_like(firsts, dtype=torch.bool), partners[firsts] == firsts], dim=1).flatten()
        return pairs[~repeated]

    def views_of(self, inputs: Inputs, index: Tensor, view: int) -> Inputs:
        assert isinstance(inputs, Tensor)
        return self.augment.views(inputs, index, view)

    def deciding(self) -> dict[str, Any]:
        augment = self.augment
        return {
            "augment": asdict(augment.config),
            "image_size": augment.image_size,
            "view_scheme": VIEW_SCHEME if self.memory is not None or augment.cuts_files else FILE_SCHEME,
            "view_seed": augment.seed,
        }

    def from_memory(self, row: Tensor, view: int, partners: Tensor | None) -> Batch:
        assert self.memory is not None
        plain = self.memory.index_select(0, row)  # many times as fast as memory[row]
        own = self.augment.views(plain, self.index[row], view)
        if partners is None:
            return Batch(own, self.targets[row], self.index[row], view, plain=plain if self.gives_plain else None)
        other = partners.to(row.device)[row]
        return self.mixed(own, self.augment.views(self.memory.index_select(0, other), self.index[other], view), row, other, view)

    def mixed(self, own: Tensor, partner: Tensor, row: Tensor, other: Tensor, view: int) -> Batch:
        mixed, targets = self.augment.mix(own, partner, self.targets[row], self.targets[other], self.index[row], view)
        return Batch(mixed, targets, self.index[row], view)

    def from_files(self, pieces: Sequence[Tensor], view: int, partners: Tensor | None) -> Iterator[Batch]:
        """Workers decode and bring to one size; the rest of a view is made of whole batches on the device."""
        wanted = list(pieces) if partners is None else [torch.cat([row, partners[row]]) for row in pieces]
        files = TrainFiles(self.split, self.augment, view, self.reading)
        finish = self.augment.after_decoding if self.augment.cuts_files else self.augment.views
        for row, pixels in zip(pieces, decoded(files, wanted, self.reading, self.place.device), strict=True):
            row = row.to(self.place.device)
            if partners is None:
                plain = pixels if self.gives_plain else None
                yield Batch(finish(pixels, self.index[row], view), self.targets[row], self.index[row], view, plain=plain)
                continue
            other = partners.to(row.device)[row]
            views = finish(pixels, torch.cat([self.index[row], self.index[other]]), view)
            yield self.mixed(views[: len(row)], views[len(row) :], row, other, view)


class PlainImages(PlainLoader):
    """Images as they are measured."""

    def __init__(self, split: Split, batch_size: int, place: Place, reading: ReadOptions):
        super().__init__(split, batch_size, place)
        self.reading = reading

    def read(self, positions: list[Tensor]) -> Iterator[Inputs]:
        if not isinstance(self.split.inputs, list):
            return super().read(positions)
        return decoded(PlainFiles(self.split, self.reading), positions, self.reading, self.place.device)


class TrainFiles(Dataset[Tensor]):
    """Files of a split: cut and resized as their views say, or whole along the short edge, as memory would hold them."""

    def __init__(self, split: Split, augment: Augment, view: int, reading: ReadOptions):
        assert isinstance(split.inputs, list)
        self.paths: list[Path] = split.inputs
        self.index, self.augment, self.view, self.reading = split.index, augment, view, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        with named(self.paths[position]) as path:
            image = images.open_image(path, self.reading.max_pixels)
            if not self.augment.cuts_files:
                return images.resize_and_center_crop(image, self.reading.image_size, ratio=1.0)
            top, left, height, width = self.augment.crop_box(image.height, image.width, int(self.index[position]), self.view)
            return images.crop_and_resize(image, (left, top, left + width, top + height), self.reading.image_size)


class PlainFiles(Dataset[Tensor]):
    """Files of a split, resized and cut at the centre."""

    def __init__(self, split: Split, reading: ReadOptions):
        assert isinstance(split.inputs, list)
        self.paths: list[Path] = split.inputs
        self.reading = reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        with named(self.paths[position]) as path:
            return images.resize_and_center_crop(images.open_image(path, self.reading.max_pixels), self.reading.image_size)


@contextlib.contextmanager
def named(path: Path) -> Iterator[Path]:
    """What goes wrong with a file says which it was."""
    try:
        yield path
    except BadImage as problem:
        problem.file = path
        raise


def decoded(files: Dataset[Tensor], rows: list[Tensor], reading: ReadOptions, device: torch.device) -> Iterator[Tensor]:
    """uint8 batches of the given positions, on the device. A bad image is named, with what can be done about it."""
    try:
        yield from read_by_workers(files, rows, Workers(reading.workers, reading.timeout_s), device)
    except BadImage as problem:
        told = BadImage(f"{problem}; {WAY_OUT}")
        told.file = problem.file
        raise told from None
