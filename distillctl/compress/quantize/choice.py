"""Which of several files to take: the fastest that answers like the fp32 one, or that one, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distillctl.compress.quantize.figures import Figures
from distillctl.metrics.latency import Spread, times_as_fast

FP32 = "fp32"
FASTER = 1.05  # times the speed, from where on it is worth another file
LABELS = {
    "static": "int8 static",
    "static_kept": "int8 static with layers in float",
    "dynamic": "int8 dynamic",
    "qat": "int8 trained for it",
    "int8_weights": "int8 weights",
    "int4_weights": "int4 weights",
}


@dataclass(frozen=True)
class Verdict:
    """A candidate beside fp32. times: as fast as fp32 it is, round by round. problem: why it was not taken; None: it could be."""

    figures: Figures
    times: Spread
    problem: str | None

    @property
    def label(self) -> str:
        return LABELS.get(self.figures.name, self.figures.name)

    @property
    def sentence(self) -> str:
        if self.problem is None:
            found = self.figures.quality
            right = f"agreement {found.agreement:.3f}" + ("" if found.accuracy is None else f" and accuracy {found.accuracy:.3f}")
            return f"{self.label}: {speed(self.times)}, {right} on {found.n} validation images"
        if slow(self.times) is None:
            return f"{self.label}: {self.times.middle:.1f}x faster, but {self.problem}"
        return f"{self.label}: {self.problem}"


@dataclass(frozen=True)
class Choice:
    """name: of the file to take. left_out: candidates that could not be made, and why. notes: what else is to be said."""

    name: str
    reason: str
    fp32: Figures
    verdicts: tuple[Verdict, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def decide(figures: Sequence[Figures], *, max_drop: float, min_agreement: float) -> Choice:
    """The fastest candidate that is faster than fp32, which comes first, and answers within both bounds; fp32 where there is none.

    Faster is what every round says (without the lowest and the highest) and what rounds agree about.
    """
    fp32, *others = figures
    assert fp32.name == FP32, fp32.name
    verdicts = tuple(judged(candidate, fp32, max_drop, min_agreement) for candidate in others)
    fit = [verdict for verdict in verdicts if verdict.problem is None]
    if fit:
        best = max(fit, key=lambda verdict: verdict.times.middle)
        return Choice(best.figures.name, best.sentence, fp32, verdicts)
    why = "; ".join(verdict.sentence for verdict in verdicts)
    return Choice(FP32, f"fp32 stays: {why}" if why else "fp32 stays: there is no other candidate", fp32, verdicts)


def judged(candidate: Figures, fp32: Figures, max_drop: float, min_agreement: float) -> Verdict:
    times = times_as_fast(fp32.rounds_ms, candidate.rounds_ms)
    wrong = candidate.quality.problem(fp32.quality, max_drop, min_agreement)
    return Verdict(candidate, times, wrong or slow(times))


def slow(times: Spread) -> str | None:
    if not times.stable:
        return f"its speed is not stable here, {times.low:.2f} to {times.high:.2f} times fp32's"
    if times.low <= 1 or times.middle < FASTER:
        return f"no faster than fp32, {times.middle:.2f} times its speed"
    return None


def speed(times: Spread) -> str:
    if slow(times) is None:
        return f"{times.middle:.1f}x faster"
    return f"{times.middle:.2f} times fp32's speed" if times.stable else f"{times.low:.2f} to {times.high:.2f} times fp32's speed"
