"""Where the samples of a stream come from, whatever brings them: entries in the order of time, by their positions."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from distillctl.data.forms import one_form
from distillctl.data.split import UNLABELLED
from distillctl.errors import DataError, did_you_mean


class Found(NamedTuple):
    """What a listing says of a sample. label: the name of its class; None where it has none."""

    name: str
    file: Path
    label: str | None
    time: str


class Entry(NamedTuple):
    """One sample. place: its file, or its row in a data set. label: the number of its class, or UNLABELLED. time: as the source says it."""

    name: str
    place: Path | int
    label: int
    time: str


class Source(ABC):
    """Equal positions give equal batches, in every attempt of a run.

    labelled: whether its samples have labels. length: how many there are; None where nobody knows.
    """

    labelled: bool
    length: int | None

    @abstractmethod
    def batch(self, first: int, most: int) -> Sequence[Entry]:
        """Those from position `first` on, at most so many; none at the end of the stream. Raises DataError."""

    @abstractmethod
    def before(self, position: int) -> Iterable[Entry]:
        """All that lie before a position, which were learnt already."""


class Listed(Source):
    """A stream that is known from its beginning to its end."""

    def __init__(self, entries: Sequence[Entry]):
        self.entries = entries
        self.labelled = bool(entries) and entries[0].label != UNLABELLED
        self.length = len(entries)

    def batch(self, first: int, most: int) -> Sequence[Entry]:
        return self.entries[first : first + most]

    def before(self, position: int) -> Iterable[Entry]:
        return self.entries[:position]


def numbered(found: Iterable[Found], classes: Sequence[str], where: str) -> list[Entry]:
    """Entries with the numbers of their classes. Raises DataError for a class that the student has no output for."""
    number = {one_form(name): place for place, name in enumerate(classes)}
    return [Entry(item.name, item.file, number_of(item.label, number, classes, where, item.name), item.time) for item in found]


def number_of(label: str | None, number: dict[str, int], classes: Sequence[str], where: str, name: str) -> int:
    if label is None:
        return UNLABELLED
    if one_form(label) not in number:
        raise DataError(
            f"{where}: {name} is of class {label!r}, which this stream has not; {did_you_mean(label, classes)} "
            "(stream.classes=[...] names all that will come)"
        )
    return number[one_form(label)]


def chained(digest: str, entries: Iterable[Entry]) -> str:
    """A hash of all entries so far, in their order: of those before, as `digest` has them, and of these."""
    for entry in entries:
        digest = hashlib.sha256(f"{digest}\0{ascii((entry.name, entry.label, entry.time))}".encode()).hexdigest()
    return digest
