"""How far a stream is: all of its state that is neither weights nor samples, as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distillctl.entries import entry, integer

COUNTS = ("position", "batches", "learnt", "held_out", "unlearnt", "left_out", "log_size")


@dataclass
class Progress:
    """position: samples that are behind us, each of which was learnt, held out, left out as unreadable, or unlearnt for want of label and teacher.

    digest: a hash of all of them, by which a resumed run sees that they are what they were. time: of the last one.
    drifts: positions at which one was told. refreshes: of the teacher, with its accuracy before and after. releases: verdicts of the gate.
    """

    position: int = 0
    batches: int = 0
    learnt: int = 0
    held_out: int = 0
    unlearnt: int = 0
    left_out: int = 0
    log_size: int = 0
    digest: str = ""
    time: str = ""
    drifts: list[int] = field(default_factory=list)
    refreshes: list[dict[str, Any]] = field(default_factory=list)
    releases: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Raises Malformed, or KeyError, of what is not ours."""
        for name in COUNTS:
            setattr(self, name, integer(state, name, low=0))
        for name in ("digest", "time"):
            setattr(self, name, entry(state, name, str, "a text"))
        for name in ("drifts", "refreshes", "releases"):
            setattr(self, name, [*entry(state, name, list, "a list")])
