"""A data set and its splits: what samples they have, and what is known of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillctl.data.forms import one_form as one_form
from distillctl.errors import DataError
from distillctl.types import Inputs, concatenated, rows

UNLABELLED = -1

Kind = TypeVar("Kind", bound="DataSet")


@dataclass(frozen=True)
class Source:
    """What the training samples were cut from. rows: how many samples it has. cut: which of val and test were cut out of it too."""

    rows: int
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """A set that is ready for training.

    train, val, test: each with or without labels, as dataset.labels, dataset.shots and the files say
    fingerprint: SHA-256 over the content, the classes and the split
    notes:       lines to show the user
    source:      what `train.index` counts in; None where nobody says
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    fingerprint: str
    notes: list[str]
    source: Source | None = field(default=None, kw_only=True)

    def name_of(self, file: Path) -> str | None:
        """What a sample's file is called in every place that the set may lie in; None where it has no file."""
        return None

    def names_of(self, split: Split) -> Sequence[str] | None:
        """What the samples of one of its splits are called, in every place that the set may lie in; None where they have no names."""
        if split.names is not None or not isinstance(split.inputs, list):
            return split.names
        found = [self.name_of(file) for file in split.inputs]
        return [name for name in found if name is not None] if None not in found else None

    def fingerprint_without(self, excused: Collection[str]) -> str:
        """The fingerprint that a set has whatever became of the files of these names."""
        return self.fingerprint

    def split(self, name: str) -> Split:
        """One of train, val and test, or all of them in this order."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return joined([part for part in parts.values() if len(part)]) if name == "all" else parts[name]

    def by_classes(self: Kind, known: Sequence[str]) -> Kind:
        """The set by the classes that a model knows, in its order, where its own are some of them; as it is where none is.

        Raises DataError that names a class that the model does not know, where it knows others.
        """
        number = {one_form(name): place for place, name in enumerate(known)}
        places = [number.get(one_form(name)) for name in self.classes]
        strangers = [name for name, place in zip(self.classes, places, strict=True) if place is None]
        if len(strangers) == len(self.classes) or list(map(one_form, known)) == list(map(one_form, self.classes)):
            return self
        if strangers:
            raise DataError(f"the model knows no class {', '.join(strangers[:5])}: leave its samples out, or take a model that does")
        absent = [name for place, name in enumerate(known) if place not in places]
        table = torch.tensor([*places, UNLABELLED])  # the last entry is that of UNLABELLED
        train, val, test = (replace(part, targets=table[part.targets]) for part in (self.train, self.val, self.test))
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        said = [f"nothing here is of the classes: {', '.join(absent[:5])}{more}"] if absent else []
        return replace(self, classes=tuple(known), train=train, val=val, test=test, notes=self.notes + said)


@dataclass(frozen=True)
class Excused:
    """Files that a run ended by, so that they may be mended, removed or left out when it goes on. All keep their places in the splits.

    names:  as `DataSet.name_of` says them
    others: whether bad files that were not met yet keep their places too; not where they were left out from the start
    """

    names: frozenset[str] = frozenset()
    others: bool = False


@dataclass(frozen=True)
class Split:
    """Samples with their classes.

    inputs:  in memory (of images uint8 [N, 3, S, S]), or N files to be decoded
    targets: int64 [N]; all UNLABELLED where the classes are not known, or not to be looked at
    index:   int64 [N], the place of each sample in the source that it was cut from (its train or its test part): the same
             whatever subset or split is taken
    names:   what the N samples are called, of those in memory that have names: of files their paths below the root
    """

    inputs: Inputs | list[Path]
    targets: Tensor
    index: Tensor
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, positions: Sequence[int] | NDArray[np.int64]) -> Split:
        """The samples at these positions, in this order."""
        chosen = torch.as_tensor(positions, dtype=torch.int64)
        inputs = [self.inputs[p] for p in positions] if isinstance(self.inputs, list) else rows(self.inputs, chosen)
        names = None if self.names is None else [self.names[p] for p in positions]
        return Split(inputs, self.targets[chosen], self.index[chosen], names)

    @property
    def labelled(self) -> bool:
        return bool((self.targets != UNLABELLED).all())

    def without_labels(self) -> Split:
        return replace(self, targets=torch.full_like(self.targets, UNLABELLED))

    @property
    def strata(self) -> Tensor:
        """int64 [N]: what a cut takes in proportion. Samples of which some have no label are all alike."""
        return self.targets if self.labelled else torch.zeros_like(self.targets)

    def sizes(self, classes: int) -> list[int]:
        """How many samples each class has; `classes` numbers or more."""
        return torch.bincount(self.strata, minlength=classes).tolist()


def whole(inputs: Inputs | list[Path], targets: Tensor) -> Split:
    """A source as it is."""
    return Split(inputs, targets, torch.arange(len(targets)))


def joined(parts: Sequence[Split]) -> Split:
    """Splits of one set, in memory or on the disk, one behind the other."""
    first, *others = parts
    if not others:
        return first
    if isinstance(first.inputs, list):
        inputs: Inputs | list[Path] = [path for part in parts for path in part.inputs]  # type: ignore[misc]
    else:
        inputs = concatenated([part.inputs for part in parts])  # type: ignore[misc]
    names = None if any(part.names is None for part in parts) else [name for part in parts for name in part.names or ()]
    return Split(inputs, torch.cat([part.targets for part in parts]), torch.cat([part.index for part in parts]), names)


def unlabelled(images: list[Path]) -> Split:
    """A source of which nobody knows the classes."""
    return whole(images, torch.full((len(images),), UNLABELLED))
