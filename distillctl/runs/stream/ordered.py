"""A data set as a stream whose classes drift: a stretch of time for each group of classes, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distillctl import draws
from distillctl.config import StreamStageConfig
from distillctl.data.split import UNLABELLED, Split
from distillctl.runs.stream.source import Entry, Listed


def of_split(split: Split, classes: int, stage: StreamStageConfig) -> Listed:
    """The samples of a split in the order of `times`; the labels of some stretch drawn anew, where that is asked for."""
    targets = split.targets if split.labelled else torch.full_like(split.targets, UNLABELLED)
    order = times(split, classes, stage).argsort(stable=True)
    labels = shuffled(targets[order], stage.shuffled, classes, stage.order_seed)
    rows, index = order.tolist(), split.index.tolist()
    return Listed([Entry(str(index[row]), row, label, str(place)) for place, (row, label) in enumerate(zip(rows, labels, strict=True))])


def times(split: Split, classes: int, stage: StreamStageConfig) -> Tensor:
    """float64 [N]: when each sample comes.

    abrupt: its stretch plus a drawn share of one. gradual: plus the sum of two such shares less a half, so that half of a stretch is shared with
    each of its neighbours. none: a share alone.
    """
    seed, index = stage.order_seed, split.index
    share = draws.uniform(seed, "time", index)
    if stage.drift == "none":
        return share
    order = draws.permutation(classes, seed, "classes")
    stretch = torch.empty(classes, dtype=torch.float64)
    phases = min(stage.phases, classes)
    stretch[order] = (torch.arange(classes) * phases // classes).double()
    begins = stretch[split.targets.clamp(min=0)]
    return begins + share if stage.drift == "abrupt" else begins + share + draws.uniform(seed, "overlap", index) - 0.5


def shuffled(targets: Tensor, stretch: Sequence[int], classes: int, seed: int) -> list[int]:
    """Labels in the order of the stream, those of the stretch [first, last) drawn from all classes alike."""
    found = targets.clone()
    if stretch:
        places = torch.arange(stretch[0], min(stretch[1], len(found)))
        found[places] = draws.integers(classes, seed, "shuffled", places)
    return found.tolist()
