"""What a file answers and costs beside the fp32 file that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from distillctl.compress.quantize.samples import Samples, first
from distillctl.compress.quantize.session import Answer, logits_of
from distillctl.formats import bytes_of
from distillctl.metrics.latency import Spread, in_turn, one_thread, spread
from distillctl.metrics.quality import agreement, kl_to_teacher, top_k_accuracy


@dataclass(frozen=True)
class Quality:
    """On `n` validation samples. accuracy: None where they have no labels. agreement, kl: with the fp32 file; kl in nats."""

    n: int
    accuracy: float | None
    agreement: float
    kl: float

    def drop(self, reference: Quality) -> float:
        """Accuracy that is lost; 0 where there are no labels, or where it grew."""
        if self.accuracy is None or reference.accuracy is None:
            return 0.0
        return max(reference.accuracy - self.accuracy, 0.0)

    def problem(self, reference: Quality, max_drop: float, min_agreement: float) -> str | None:
        """Why it may not be taken; None where it answers well enough."""
        where = f"on {self.n} validation images"
        if self.agreement < min_agreement:
            return f"agreement {self.agreement:.3f} {where} is under quantize.min_agreement={min_agreement}"
        lost = self.drop(reference)
        if lost > max_drop + 1e-12:  # what is lost is a difference of two shares
            return f"accuracy {self.accuracy:.3f} {where} is {lost:.3f} under fp32's, more than quantize.max_drop={max_drop}"
        return None


@dataclass(frozen=True)
class Figures:
    """A candidate as measured: bytes on disk and, of each round, the milliseconds of a pass over one sample."""

    name: str
    size: int
    quality: Quality
    rounds_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> Spread:
        """Of one sample: p50 is its middle."""
        return spread(self.rounds_ms)


@dataclass(frozen=True)
class Candidate:
    """A file, and how it is asked in its own runtime. note: what is to be said of how it was made."""

    name: str
    file: Path
    answer: Answer
    note: str | None = None


def quality(logits: Tensor, reference: Tensor, targets: Tensor | None) -> Quality:
    """Of logits [N, K] beside those of the fp32 file; targets int64 [N]."""
    accuracy = None if targets is None else top_k_accuracy(logits, targets, 1)
    return Quality(len(logits), accuracy, agreement(logits, reference), kl_to_teacher(logits, reference))


def measured(candidates: Sequence[Candidate], validation: Samples, targets: Tensor | None) -> list[Figures]:
    """Figures of all candidates, of which the first is the fp32 file; they are timed in turn, on one thread."""
    answers = [logits_of(candidate.answer, validation) for candidate in candidates]
    sample = first(validation)
    passes = {candidate.name: asking(candidate.answer, sample) for candidate in candidates}
    with one_thread():
        rounds = in_turn(passes)
    return [
        Figures(
            candidate.name,
            bytes_of(candidate.file),
            quality(logits, answers[0], targets),
            tuple(rounds[candidate.name]),
        )
        for candidate, logits in zip(candidates, answers, strict=True)
    ]


def asking(answer: Answer, sample: np.ndarray) -> Callable[[], None]:
    def run(batch: np.ndarray) -> None:
        answer(batch)

    return partial(run, sample)
