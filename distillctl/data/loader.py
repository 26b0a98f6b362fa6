"""Batches of an epoch as a function of (seed, epoch, first batch, rank): in memory by gathering, from files by workers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy.random  # noqa: F401  (torch's workers use it first thing; an import while they start has failed)
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from distillctl.data import images
from distillctl.data.augment import Augment
from distillctl.data.images import BadImage
from distillctl.data.sets import WAY_OUT, Split
from distillctl.draws import permutation
from distillctl.errors import WORKER_DIED, MachineError, UserError
from distillctl.interruption import ASKING, held_back
from distillctl.types import Batch

WORKER_HANGS = "a data worker hangs; raise dataset.timeout_s, or set dataset.workers=0 to see the cause"
DEATH_S = 0.5


@dataclass(frozen=True)
class Place:
    """Which part of each batch is ours, and where to put it."""

    device: torch.device
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class ReadOptions:
    """How files are read: by how many workers, with how much patience, at which size."""

    image_size: int
    workers: int = 0
    timeout_s: int = 300
    max_pixels: int = 50_000_000


class TrainLoader:
    """Augmented batches, every one whole: a last partial batch is dropped, and its images come in another epoch's order.

    The view of an epoch is its number, or with a bank of `views` its place in there. Equal (view seed, view, index) gives equal images on
    any machine; order depends on the epoch, partners of samples that are mixed on the view.
    """

    def __init__(
        self, split: Split, augment: Augment, batch_size: int, seed: int, place: Place, reading: ReadOptions, views: int | None = None
    ):
        self.split, self.augment, self.batch_size, self.seed, self.place, self.reading = split, augment, batch_size, seed, place, reading
        self.views = views
        self.targets, self.index = split.targets.to(place.device), split.index.to(place.device)
        self.memory = split.images.to(place.device) if isinstance(split.images, Tensor) else None

    @property
    def batches_per_epoch(self) -> int:
        return len(self.split) // self.batch_size

    def view_of(self, epoch: int) -> int:
        return epoch if self.views is None else epoch % self.views

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        whole = self.order(epoch).split(self.batch_size)[first : self.batches_per_epoch]
        yield from self.batches(whole, self.view_of(epoch))

    def covering(self, epoch: int) -> list[Tensor]:
        """Positions of an epoch's batches, and of its last partial batch, filled up from the epoch's beginning to a whole one."""
        order = self.order(epoch)
        whole = -(-len(order) // self.batch_size) * self.batch_size
        return list(torch.cat([order, order])[:whole].split(self.batch_size))

    def batches(self, whole: Sequence[Tensor], view: int) -> Iterator[Batch]:
        """This rank's pieces of batches of these positions, as a view shows them."""
        rows = [self.ours(positions) for positions in whole]
        partners = self.augment.partners(len(self.split), view) if self.augment.mixes else None
        if self.memory is not None:
            for row in rows:
                yield self.from_memory(row.to(self.place.device), view, partners)
        else:
            yield from self.from_files(rows, view, partners)

    def order(self, epoch: int) -> Tensor:
        """Positions in the split, shuffled; where samples are mixed, partners stay neighbours so that each is read once."""
        count = len(self.split)
        if not self.augment.mixes:
            return permutation(count, self.seed, "order", epoch)
        partners = self.augment.partners(count, self.view_of(epoch))
        firsts = torch.arange(count)[torch.arange(count) <= partners]
        firsts = firsts[permutation(len(firsts), self.seed, "order", epoch)]
        pairs = torch.stack([firsts, partners[firsts]], dim=1).flatten()
        repeated = torch.stack([torch.zeros_like(firsts, dtype=torch.bool), partners[firsts] == firsts], dim=1).flatten()
        return pairs[~repeated]

    def ours(self, whole: Tensor) -> Tensor:
        """This rank's piece of a whole batch."""
        return whole.tensor_split(self.place.world)[self.place.rank]

    def from_memory(self, row: Tensor, view: int, partners: Tensor | None) -> Batch:
        assert self.memory is not None
        own = self.augment.views(self.memory.index_select(0, row), self.index[row], view)  # many times as fast as memory[row]
        if partners is None:
            return Batch(own, self.targets[row], self.index[row], view)
        other = partners.to(row.device)[row]
        return self.mixed(own, self.augment.views(self.memory.index_select(0, other), self.index[other], view), row, other, view)

    def mixed(self, own: Tensor, partner: Tensor, row: Tensor, other: Tensor, view: int) -> Batch:
        mixed, targets = self.augment.mix(own, partner, self.targets[row], self.targets[other], self.index[row], view)
        return Batch(mixed, targets, self.index[row], view)

    def from_files(self, rows: list[Tensor], view: int, partners: Tensor | None) -> Iterator[Batch]:
        """Workers decode, crop and resize; the rest of a view is made of whole batches on the device."""
        wanted = rows if partners is None else [torch.cat([row, partners[row]]) for row in rows]
        files = TrainFiles(self.split, self.augment, view, self.reading)
        for row, pixels in zip(rows, decoded(files, wanted, self.reading, self.place.device), strict=True):
            row = row.to(self.place.device)
            if partners is None:
                yield Batch(self.augment.after_decoding(pixels, self.index[row], view), self.targets[row], self.index[row], view)
                continue
            other = partners.to(row.device)[row]
            views = self.augment.after_decoding(pixels, torch.cat([self.index[row], self.index[other]]), view)
            yield self.mixed(views[: len(row)], views[len(row) :], row, other, view)


class PlainLoader:
    """A split in its own order, not augmented: rank r gets samples r, r + world, ..."""

    def __init__(self, split: Split, batch_size: int, place: Place, reading: ReadOptions):
        self.split, self.batch_size, self.place, self.reading = split, batch_size, place, reading

    def __iter__(self) -> Iterator[Batch]:
        rows = list(torch.arange(self.place.rank, len(self.split), self.place.world).split(self.batch_size))
        if isinstance(self.split.images, Tensor):
            pieces: Iterator[Tensor] = (self.split.images[row].to(self.place.device) for row in rows)
        else:
            pieces = decoded(PlainFiles(self.split, self.reading), rows, self.reading, self.place.device)
        for row, pixels in zip(rows, pieces, strict=True):
            yield Batch(pixels, self.split.targets[row].to(self.place.device), self.split.index[row].to(self.place.device), view=-1)


class TrainFiles(Dataset[Tensor]):
    """Files of a split, each cut and resized as its view says."""

    def __init__(self, split: Split, augment: Augment, view: int, reading: ReadOptions):
        assert not isinstance(split.images, Tensor)
        self.paths: list[Path] = split.images
        self.index, self.augment, self.view, self.reading = split.index, augment, view, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        image = images.open_image(self.paths[position], self.reading.max_pixels)
        top, left, height, width = self.augment.crop_box(image.height, image.width, int(self.index[position]), self.view)
        return images.crop_and_resize(image, (left, top, left + width, top + height), self.reading.image_size)


class PlainFiles(Dataset[Tensor]):
    """Files of a split, resized and cut at the centre."""

    def __init__(self, split: Split, reading: ReadOptions):
        assert not isinstance(split.images, Tensor)
        self.paths: list[Path] = split.images
        self.reading = reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        return images.resize_and_center_crop(images.open_image(self.paths[position], self.reading.max_pixels), self.reading.image_size)


def decoded(files: Dataset[Tensor], rows: list[Tensor], reading: ReadOptions, device: torch.device) -> Iterator[Tensor]:
    """uint8 batches of the given positions, on the device. Raises what a file's reader raised, whichever process it was."""
    loader = DataLoader(
        ErrorsAsItems(files),
        batch_sampler=[row.tolist() for row in rows],
        num_workers=reading.workers,
        collate_fn=collate,
        worker_init_fn=leave_signals_to_the_run,
        timeout=reading.timeout_s if reading.workers else 0,
        pin_memory=device.type == "cuda",
        # a loader without one would draw its base seed from the global stream, and shift what comes after
        generator=torch.Generator(),
        prefetch_factor=4 if reading.workers else None,
    )
    with held_back():  # until the workers ignore them
        batches: Any = iter(loader)
    workers = getattr(batches, "_workers", ())
    # an error elsewhere keeps the frames that it went through, and ours with its workers; before Python waits for them when it leaves
    leaving = Finalize(None, kill, (batches, workers), exitpriority=100)
    try:
        if any(worker.exitcode for worker in workers):  # before torch watched over it
            raise MachineError(WORKER_DIED)
        for pixels in batches:
            if isinstance(pixels, UserError):
                raise BadImage(f"{pixels}; {WAY_OUT}") if isinstance(pixels, BadImage) else pixels
            yield pixels.to(device, non_blocking=True)
    except Exception as error:
        if not isinstance(error, UserError):  # a broken connection may be noticed before the death that broke it
            wait([worker.sentinel for worker in workers], timeout=DEATH_S)
        cut_off = isinstance(
            error, (EOFError, ConnectionError)
        )  # in the middle of a batch: on a busy machine before anyone knows of a death
        died, hangs = bool(workers) and (cut_off or any(worker.exitcode for worker in workers)), "DataLoader timed out" in str(error)
        if died or hangs:
            kill(batches, workers)
        elif workers:  # now: left to the garbage collector, which takes it apart in any order, it waits for what is gone already
            batches._shutdown_workers()
        if (died or hangs) and not isinstance(error, UserError):
            raise MachineError(WORKER_DIED if died else WORKER_HANGS) from error
        raise
    finally:
        leaving.cancel()


def kill(batches: Any, workers: Sequence[Any]) -> None:
    """End workers one of which is dead or stuck: the others may wait for what it holds, and they ignore gentler signals."""
    for worker in workers:
        for way in (worker.kill, worker.join):
            with contextlib.suppress(RuntimeError):  # torch's alarm that a worker died
                way()
    batches._shutdown = True  # nobody is left to be told


def leave_signals_to_the_run(worker: int) -> None:
    """A Ctrl-C reaches the whole group: workers must live until the run has saved."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


class ErrorsAsItems(Dataset[Any]):
    """Files whose problems are items like any other: as exceptions they would come from a worker as a page of text."""

    def __init__(self, files: Dataset[Tensor]):
        self.files = files

    def __getitem__(self, position: int) -> Tensor | UserError:
        try:
            return self.files[position]
        except UserError as problem:
            return problem


def collate(items: list[Tensor | UserError]) -> Tensor | UserError:
    """One batch of many items, or the first problem among them."""
    return next((item for item in items if isinstance(item, UserError)), None) or default_collate(items)
