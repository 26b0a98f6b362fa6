"""Which task of a sequence is being learnt, and what a strategy is given besides its student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from distillctl.data.split import Split
from distillctl.types import Batch, Inputs

Views = Callable[
    [Inputs, Tensor, int], Inputs
]  # samples as they are stored, their index int64 [B] and a view's number -> that view of them


@dataclass(frozen=True)
class Task:
    """One of a sequence. Classes are numbered in the order in which they come, so those of earlier tasks are 0 to `old` - 1.

    number: from 1. of: how many tasks there are. seen: classes by the end of this one. total: by the end of all.
    """

    number: int
    of: int
    old: int
    seen: int
    total: int


@dataclass(frozen=True)
class Samples:
    """The training samples of a task as they are stored. plain: batches of some of them without augmentation, all of them on every rank."""

    split: Split
    plain: Callable[[Split], Iterable[Batch]]


Past = Mapping[str, Tensor]  # what the strategy left at the end of the task before: `Strategy.carried`
