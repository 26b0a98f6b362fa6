"""Batches of an epoch as a function of (seed, epoch, first batch, rank), whatever kind the samples are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillctl.data.balance import balanced_order
from distillctl.data.split import Split
from distillctl.draws import permutation
from distillctl.types import Batch, Inputs, rows, to


@dataclass(frozen=True)
class Place:
    """Which part of each batch is ours, and where to put it."""

    device: torch.device
    rank: int = 0
    world: int = 1
    pieces: int = 1  # of a batch, each of which batch norm sees alone


WORTH_KEEPING = 0.05  # of an epoch


def batch_sizes(samples: int, batch_size: int, pieces: int = 1) -> tuple[int, ...]:
    """Of the batches of an epoch. pieces: that each is cut into, and that must not be left with a single sample.

    All are whole, and the few samples that are left over come in another epoch's order: then every step has the same shape. Of a small set
    they would be a large part: it is cut into batches that are equal up to one sample and not larger, at least half as large.
    """
    whole, left = divmod(samples, batch_size)
    if left <= WORTH_KEEPING * samples or not whole or samples // (whole + 1) < 2 * pieces:
        return (batch_size,) * whole
    smaller, larger = divmod(samples, whole + 1)
    return (smaller + 1,) * larger + (smaller,) * (whole + 1 - larger)


class TrainLoader:
    """Batches of views, of the sizes that `batch_sizes` says.

    The view of an epoch is its number, or with a bank of `views` its place in there. Order depends on the epoch. Here a view is the sample
    as it is, in memory; kinds of data that are augmented, or read from files, say in `show` what equal (view seed, view, index) give on any machine.
    Where it is `balanced`, an epoch has as many samples of one class as of another. With `gives_plain` batches hold the samples as they are stored too.
    """

    balanced = False
    gives_plain = False

    def __init__(self, split: Split, batch_size: int, seed: int, place: Place, views: int | None = None):
        self.split, self.batch_size, self.seed, self.place, self.views = split, batch_size, seed, place, views
        self.sizes = batch_sizes(len(split), batch_size, place.pieces)
        self.targets, self.index = split.targets.to(place.device), split.index.to(place.device)
        self.memory = None if isinstance(split.inputs, list) else to(split.inputs, place.device)

    @property
    def batches_per_epoch(self) -> int:
        return len(self.sizes)

    @property
    def samples_per_epoch(self) -> int:
        return sum(self.sizes)

    @property
    def workers(self) -> int:
        """Processes that read for this one."""
        return 0

    def view_of(self, epoch: int) -> int:
        return epoch if self.views is None else epoch % self.views

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        whole = self.order(epoch)[: self.samples_per_epoch].split(self.sizes)[first:]
        for positions, batch in zip(whole, self.batches(whole, self.view_of(epoch)), strict=True):
            yield batch._replace(place=(self.begins(positions), len(positions)))

    def covering(self, epoch: int) -> list[Tensor]:
        """All positions as whole batches in an epoch's order, the last filled up from the beginning."""
        order = self.shuffled(epoch)
        if self.samples_per_epoch == len(order):
            return list(order.split(self.sizes))
        whole = -(-len(order) // self.batch_size) * self.batch_size
        return list(torch.cat([order, order])[:whole].split(self.batch_size))

    def batches(self, whole: Sequence[Tensor], view: int) -> Iterator[Batch]:
        """This rank's pieces of batches of these positions, as a view shows them."""
        return self.show([self.ours(positions) for positions in whole], view)

    def ours(self, whole: Tensor) -> Tensor:
        """This rank's piece of a whole batch."""
        return whole.tensor_split(self.place.world)[self.place.rank]

    def begins(self, whole: Tensor) -> int:
        """Where in a whole batch this rank's piece begins."""
        return sum(map(len, whole.tensor_split(self.place.world)[: self.place.rank]))

    def views_of(self, inputs: Inputs, index: Tensor, view: int) -> Inputs:
        """Samples that are held elsewhere, as a view shows them: here as they are. index: int64 [B]."""
        return inputs

    def order(self, epoch: int) -> Tensor:
        """Positions in the split as an epoch has them."""
        return balanced_order(self.split.targets, self.seed, epoch) if self.balanced else self.shuffled(epoch)

    def shuffled(self, epoch: int) -> Tensor:
        """All positions in the split, in a drawn order."""
        return permutation(len(self.split), self.seed, "order", epoch)

    def show(self, pieces: Sequence[Tensor], view: int) -> Iterator[Batch]:
        """Batches of the samples at these positions, as a view shows them."""
        assert self.memory is not None
        for piece in pieces:
            row = piece.to(self.place.device)
            inputs = rows(self.memory, row)
            yield Batch(inputs, self.targets[row], self.index[row], view, plain=inputs if self.gives_plain else None)

    def deciding(self) -> dict[str, Any]:
        """What decides what a view shows, besides samples, index and view: a part of the key of kept answers."""
        return {}


class PlainLoader:
    """A split in its own order, not augmented: rank r gets samples r, r + world, ...

    order: int64, of the samples as they come their places among this rank's own, of kinds that are read in another order; None where that is theirs.
    """

    order: Tensor | None = None

    def __init__(self, split: Split, batch_size: int, place: Place):
        self.split, self.batch_size, self.place = split, batch_size, place

    def __iter__(self) -> Iterator[Batch]:
        positions = list(torch.arange(self.place.rank, len(self.split), self.place.world).split(self.batch_size))
        for row, inputs in zip(positions, self.read(positions), strict=True):
            yield Batch(inputs, self.split.targets[row].to(self.place.device), self.split.index[row].to(self.place.device), view=-1)

    def read(self, positions: list[Tensor]) -> Iterator[Inputs]:
        """The samples at these positions, as they are measured."""
        assert not isinstance(self.split.inputs, list)
        for row in positions:
            yield to(rows(self.split.inputs, row), self.place.device)
