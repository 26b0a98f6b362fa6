"""The minutes that a run may take, `trainer.max_minutes`: shared out among its steps, in time to measure and to ship."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

LEAST_RESERVE = 0.05  # of the minutes, for what nobody has timed
ROW_S = 1.0  # a row of the table, besides its answers


@dataclass
class Allowance:
    """The time of one step. before_s: what it had in earlier attempts; allotted_s: None where it may take as long as it likes."""

    allotted_s: float | None = None
    before_s: float = 0.0
    started: float = field(default_factory=lambda: time.monotonic())

    def spent_s(self) -> float:
        return self.before_s + time.monotonic() - self.started

    def gone(self) -> float:
        """The share of its time that has passed; 1 and more: it is up."""
        return 0.0 if self.allotted_s is None else self.spent_s() / max(self.allotted_s, 1e-3)


@dataclass
class Clock:
    """limit_s: None where there is none. before_s: what earlier attempts have taken; sample_s: an answer, as measured. costs: seconds of the steps to come, relative to each other."""

    limit_s: float | None = None
    before_s: float = 0.0
    sample_s: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)
    to_answer: list[int] = field(default_factory=list)  # samples of each row of the table
    step: Allowance = field(default_factory=Allowance)  # that is trained
    started: float = field(default_factory=lambda: time.monotonic())

    def elapsed_s(self) -> float:
        """Of the run, all attempts together."""
        return self.before_s + time.monotonic() - self.started

    def allot(self, name: str) -> float | None:
        """The seconds of a step that begins now: its part of what will be left when the rows of the table are measured."""
        if self.limit_s is None:
            return None
        reserve = max(LEAST_RESERVE * self.limit_s, sum(ROW_S + count * self.sample_s for count in self.to_answer))
        names = list(self.costs)
        to_come = sum(self.costs[other] for other in names[names.index(name) :]) if name in names else 0.0
        share = self.costs[name] / to_come if to_come else 1.0
        return max(0.0, self.limit_s - self.elapsed_s() - reserve) * share
