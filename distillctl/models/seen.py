"""What a record says of how images are seen, read without torch: the one reading of it, for nets and for files that run elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from distillctl.entries import Malformed, numbers, text
from distillctl.models.record import Record, size

KIND = "images"


@dataclass(frozen=True)
class Seen:
    """side: of the square that a net is given, in px. edge: what the short edge of a larger image becomes first. mean, std: of the channels of
    images in [0, 1]."""

    side: int
    edge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def crop(self) -> float:
        """How much of the short edge of a larger image is seen."""
        return self.side / self.edge


def seen_in(record: Record) -> Seen:
    """Raises Malformed where that is not what it says."""
    told = record.preprocessing
    side, edge = (size(told, key, inside="preprocessing.") for key in ("image_size", "resize"))
    return Seen(side, edge, numbers(told, "mean", 3, "preprocessing."), numbers(told, "std", 3, "preprocessing.", above=0))


def kind_in(record: Record) -> str:
    """What kind of inputs a record speaks of; images came first, and say nothing of it. Raises Malformed."""
    found: str = text(record.preprocessing, "kind", KIND, "preprocessing.")
    return found


def is_of_images(record: Record) -> bool:
    try:
        return kind_in(record) == KIND
    except Malformed:
        return False
