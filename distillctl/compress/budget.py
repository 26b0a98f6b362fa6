"""Whether a file meets what a budget asks for, which of several is kept, and the sentences about that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distillctl.config import BudgetConfig
from distillctl.metrics.metric import count

HARD = ("size_mb", "latency_ms", "macs")  # what does not depend on weights
ROUNDING = 1e-12  # accuracy that is lost is a difference of two shares


@dataclass(frozen=True)
class Limits:
    """What a file has to meet; None: nothing is asked. macs: a count. max_drop: a share of the validation images."""

    size_mb: float | None = None
    latency_ms: float | None = None
    macs: float | None = None
    max_drop: float = 0.01

    @property
    def asked(self) -> dict[str, float]:
        """The hard ones that there are."""
        return {key: value for key in HARD if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class Candidate:
    """A file. name: of its row. level: how much was cut, in words. drop: accuracy lost against the student that the run began with.

    latency_ms: of one image on one thread, None where nobody asks. stable: whether its rounds agree; where they do not it is their highest.
    """

    name: str
    level: str
    size_mb: float
    latency_ms: float | None = None
    macs: int | None = None
    drop: float = 0.0
    stable: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """name: of the row that is kept, which meets the budget or is the nearest to it. sentence: that it does, or by how much it does not."""

    name: str
    met: bool
    sentence: str


def limits_of(budget: BudgetConfig, macs: int | None) -> Limits:
    """macs: of the student that the run begins with, of which `budget.macs` may be a share."""
    asked = budget.macs
    if asked is not None and asked <= 1:
        assert macs is not None
        asked *= macs
    return Limits(budget.size_mb, budget.latency_ms, asked, budget.max_drop)


def excess(candidate: Candidate, limits: Limits) -> dict[str, float]:
    """By how much each hard limit that is not met is exceeded, as a share of it; accuracy aside."""
    over = {key: getattr(candidate, key) / limit - 1 for key, limit in limits.asked.items()}
    return {key: share for key, share in over.items() if share > 0}


def distance(candidate: Candidate, limits: Limits) -> float:
    """The largest of what is exceeded; 0 where all hard limits are met."""
    return max(excess(candidate, limits).values(), default=0.0)


def meets(candidate: Candidate, limits: Limits) -> bool:
    return not broken(candidate, limits)


def broken(candidate: Candidate, limits: Limits) -> list[str]:
    """The keys that it does not meet, accuracy too."""
    return [*excess(candidate, limits), *(["max_drop"] if candidate.drop > limits.max_drop + ROUNDING else [])]


def choose(candidates: Sequence[Candidate], limits: Limits, n: int) -> Choice:
    """Of candidates from the mildest level to the strongest: of the first level where one meets all, that which loses least, then the smallest.

    Where none does: of those within all hard limits that which loses least, else that which exceeds them least. n: validation images.
    """
    fit = [candidate for candidate in candidates if meets(candidate, limits)]
    if fit:
        best = min((each for each in fit if each.level == fit[0].level), key=lambda each: (max(each.drop, 0.0), each.size_mb))
        return Choice(best.name, True, f"of the mildest level that meets the budget: {in_words(best, limits)}, on {n:,} validation images")
    nearest = min(candidates, key=lambda each: (distance(each, limits), each.drop))
    return Choice(
        nearest.name,
        False,
        f"no candidate meets the budget: the nearest is {nearest.name} ({in_words(nearest, limits)}, on {n:,} validation images); "
        f"{way_out(broken(nearest, limits))}",
    )


def in_words(candidate: Candidate, limits: Limits) -> str:
    """What is asked of it, each as it is and as it may be."""
    return ", ".join([*parts(candidate, limits), f"drop {max(candidate.drop, 0.0):.3f} of {limits.max_drop:g}"])


def untrained_in_words(candidate: Candidate, limits: Limits) -> str:
    """The same before there is an accuracy, and of time the least that was seen."""
    return f"{candidate.name} would have {', '.join(parts(candidate, limits, 'at best'))}"


def parts(candidate: Candidate, limits: Limits, time: str = "p50") -> list[str]:
    """Of all that is asked. time: what the milliseconds are."""
    return [part(candidate, key, limit, time) for key, limit in limits.asked.items()]


def part(candidate: Candidate, key: str, limit: float, time: str) -> str:
    value = getattr(candidate, key)
    if key == "macs":
        return f"{count(value)} MACs of {count(limit)}"
    if key == "size_mb":
        return f"size {value:.4g} MB of {limit:g}"
    return f"{time} {value:.3g} ms of {limit:g}" if candidate.stable else f"up to {value:.3g} ms, not stable here, of {limit:g}"


def way_out(keys: Sequence[str]) -> str:
    """What to do about keys that are not met."""
    raised = " and ".join(f"budget.{key}" for key in keys)
    longer = "train longer (distill.epochs=N), " if "max_drop" in keys else ""
    return f"raise {raised}, {longer}or take a smaller student"


def problem(files: Sequence[Candidate], limits: Limits) -> tuple[str, float]:
    """Why no file of a level can meet the hard limits, before any training, and by how much the nearest does not; empty and 0 where one can."""
    best = min(files, key=lambda file: distance(file, limits))
    over = Limits(**{key: limits.asked[key] for key in excess(best, limits)})
    return (untrained_in_words(best, over) if over.asked else ""), distance(best, limits)


def nearest_level(problems: Mapping[str, float]) -> str:
    """Of levels that cannot meet the budget, by how much they do not, mildest first: the nearest."""
    return min(problems, key=lambda level: problems[level])
