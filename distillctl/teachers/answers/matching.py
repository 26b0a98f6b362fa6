"""Whose answers a table holds: its classes as those of a data set, its samples as those of the splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillctl.config import DatasetConfig
from distillctl.data.forms import one_form
from distillctl.data.split import DataSet, Split
from distillctl.errors import DataError, did_you_mean
from distillctl.teachers.answers.forms import SLACK, completed, left_over
from distillctl.teachers.answers.table import Table
from distillctl.teachers.answers.told import Key

PARTS = ("train", "val", "test")
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Known:
    """What a table knows of a data set of K classes.

    logits: float32 [R, K]. places: of each split, int64 [N], where in `logits` a sample's answer is, UNKNOWN where there is none.
    index: int64 [N] of the training samples. left_out: training samples that nobody says anything about, which are not among them any more.
    """

    table: Table
    logits: Tensor
    places: Mapping[str, Tensor]
    index: Tensor
    left_out: int = 0

    def of(self, part: str) -> Tensor | None:
        """The logits [N, K] of a split's samples, in its order; None unless all of them are known."""
        places = self.places[part]
        return self.logits[places] if len(places) and bool((places != UNKNOWN).all()) else None

    def count(self, part: str) -> int:
        """How many samples of a split are known."""
        return int((self.places[part] != UNKNOWN).sum())

    def unused(self) -> int:
        """How many answers are about samples of no split."""
        used = torch.cat([places[places != UNKNOWN] for places in self.places.values()]).unique()
        return len(self.logits) - len(used)


def match(table: Table, data: DataSet, config: DatasetConfig) -> Known:
    """Raises DataError in one line: classes that differ, samples that are not there, no training sample that is."""
    logits = torch.from_numpy(by_class(table, data))
    places = by_row(table, data) if table.key == "row" else by_name(table, data, config)
    known = Known(table, logits, places, data.train.index)
    if not known.count("train"):
        raise DataError(
            f"{table.file}: none of its {len(table.samples):,} answers is about a training sample; {table.key} has to name these as docs/answers.md says"
        )
    return known


def by_class(table: Table, data: DataSet) -> np.ndarray:
    """float32 [R, K], columns in the data set's order. Raises DataError."""
    number = {one_form(name): place for place, name in enumerate(data.classes)}
    for place, name in enumerate(table.classes):
        if name not in number:
            what = f"{table.where(said_first(table, place))}: {name!r}" if table.some else f"{table.file}: its column {name!r}"
            raise DataError(f"{what} is no class of {data.name}; {did_you_mean(name, number)}")
    places = [number[name] for name in table.classes]
    if table.some:
        left, told = left_over(table.logits), (~np.isnan(table.logits)).sum(1)
        for row in np.flatnonzero((told == len(number)) & (left > SLACK))[:1]:
            raise DataError(f"{table.where(row)}: the probabilities of all classes sum to {1 - left[row]:.4g}, not 1")
        return completed(table.logits, places, len(number))
    lacking = [name for name in number if name not in table.classes]
    if lacking:
        raise DataError(f"{table.file}: no column for class {', '.join(map(repr, lacking[:5]))}; every class needs one")
    return np.ascontiguousarray(table.logits[:, [table.classes.index(name) for name in number]])


def said_first(table: Table, place: int) -> int:
    return int(np.flatnonzero(~np.isnan(table.logits[:, place]))[0])


def by_row(table: Table, data: DataSet) -> dict[str, Tensor]:
    """By places in the training source. Of splits that come from elsewhere, a row says nothing."""
    rows, source = np.array(table.samples, np.int64), data.source
    if source is not None:
        for place in np.flatnonzero(rows >= source.rows)[:1]:
            raise DataError(
                f"{table.where(place)}: row={rows[place]} is out of range: {data.name} has {source.rows:,} samples to train on, row 0 the first"
            )
    parts = ("train", *(source.cut if source is not None else ()))
    most = max(int(rows.max()), *(int(part.index.max()) for name in parts if len(part := data.split(name))))
    if most > 100 * (len(rows) + len(data.train)) + 2**24:  # of rows that nobody has counted
        raise DataError(f"{table.where(int(rows.argmax()))}: row={rows.max()} is out of range")
    at = torch.full((most + 1,), UNKNOWN)
    at[torch.from_numpy(rows)] = torch.arange(len(rows))
    return {name: at[split.index] if name in parts else nowhere(split) for name, split in splits(data)}


def by_name(table: Table, data: DataSet, config: DatasetConfig) -> dict[str, Tensor]:
    """By what samples are called; of a set that is used whole, each name has to be one."""
    at: dict[Key, int] = {name: place for place, name in enumerate(table.samples)}
    found, seen = dict[str, Tensor](), set[str]()
    for part, split in splits(data):
        names = data.names_of(split)
        if names is None and len(split):
            raise DataError(f"{table.file}: names samples by {table.key}, and those of {data.name} have no names; name them by row")
        called = [one_form(name) for name in names or ()]
        seen.update(called)
        found[part] = torch.tensor([at.get(name, UNKNOWN) for name in called], dtype=torch.int64)
    if is_whole(config):
        for place, name in enumerate(table.samples):
            if name not in seen:
                raise DataError(f"{table.where(place)}: {table.key}={name} is no sample of {data.name}{hint(str(name), seen)}")
    return found


def is_whole(config: DatasetConfig) -> bool:
    """Whether every sample of a set is in one of its splits."""
    narrowed = (config.subset, config.test_subset, config.shots) != (None, None, None)
    return not narrowed and getattr(config, "on_bad_image", "error") != "skip"


def hint(name: str, known: set[str]) -> str:
    """An example of what names look like, where this one ends like one of them."""
    end = name.rpartition("/")[2]
    alike = next((other for other in sorted(known) if other.rpartition("/")[2] == end), None)
    example = alike or next(iter(sorted(known)), None)
    return f"; did you mean {alike}?" if alike else f"; they are called as {example}" if example else ""


def splits(data: DataSet) -> list[tuple[str, Split]]:
    return [(name, data.split(name)) for name in PARTS]


def nowhere(split: Split) -> Tensor:
    return torch.full((len(split),), UNKNOWN)
