"""Strategies that learn kept samples again: by their labels, or by what the student once answered to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.build import not_negative
from distillctl.losses.inputs import precise
from distillctl.losses.logits import cross_entropy
from distillctl.strategies.memory import Memory
from distillctl.strategies.strategy import Strategy, one, total, weighed
from distillctl.types import Batch, Output, Terms, concatenated


class Replays(Strategy):
    """A strategy with a memory that every batch passes through."""

    replays = True
    memory: Memory


class Er(Replays):
    """Experience replay (Rolnick et al. 2019; Chaudhry et al. 2019): the loss of new and kept samples, in one batch."""

    name = "er"

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        answer, terms = learnt_together(self.student, batch, self.memory, self.lesson)
        self.memory.observe(batch, answer.logits)
        return terms


class Der(Replays):
    """Dark experience replay (Buzzega et al. 2020, eq. 6): alpha times the mean squared distance from the logits of the moment a sample was kept.

    A batch of its own goes through the net, so batch norm sees new and kept samples apart, as in the authors' code. Under a head that grows the
    distance is that of the classes which the head had then.
    """

    name = "der"
    keeps_logits = True

    def __init__(self, *arguments: Any, alpha: float = 0.3, **more: Any):
        super().__init__(*arguments, **more)
        self.alpha = not_negative(alpha=alpha)

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        answer = self.student(batch.inputs)
        self.memory.observe(batch, answer.logits)
        return total(self.lesson(answer, batch), *self.dark(batch))

    def dark(self, batch: Batch) -> list[Terms]:
        replay = self.memory.draw(batch)
        if replay is None or not self.alpha:
            return []
        answer = self.student(replay.batch.inputs)
        distance = logit_distance(answer.logits, replay.logits, replay.widths)
        return [one("memory logits", self.alpha * replay.share * distance)]


class DerPlusPlus(Der):
    """DER++ (eq. 7): and beta times the cross-entropy of a second, independent draw."""

    name = "derpp"

    def __init__(self, *arguments: Any, alpha: float = 0.2, beta: float = 0.5, **more: Any):
        super().__init__(*arguments, alpha=alpha, **more)
        self.beta = not_negative(beta=beta)

    def dark(self, batch: Batch) -> list[Terms]:
        replay = self.memory.draw(batch, 1)
        if replay is None or not self.beta:
            return super().dark(batch)
        answer = self.student(replay.batch.inputs)
        labels = cross_entropy(answer.logits, replay.batch.targets)
        return [*super().dark(batch), one("memory labels", self.beta * replay.share * labels)]


def learnt_together(
    student: nn.Module,
    batch: Batch,
    memory: Memory,
    lesson: Callable[[Output, Batch], Terms],
    about_kept: Callable[[Output, Batch], Terms | None] | None = None,
) -> tuple[Output, Terms]:
    """The answer to new samples, and the mean of a lesson over them and those that are drawn beside them, in one pass.

    about_kept: what is added, a mean over the drawn ones alone.
    """
    replay = memory.draw(batch)
    if replay is None:
        answer: Output = student(batch.inputs)
        return answer, lesson(answer, batch)
    ours, kept = cut(student(concatenated([batch.inputs, replay.batch.inputs])), len(batch.index))
    part = memory.new_part(batch)
    found = [weighed(lesson(ours, batch), part), weighed(lesson(kept, replay.batch), (1 - part) * replay.share, prefix="memory ")]
    if about_kept is not None and (more := about_kept(kept, replay.batch)) is not None:
        found.append(weighed(more, replay.share))
    return ours, total(*found)


def cut(answer: Output, first: int) -> tuple[Output, Output]:
    """The answer to a batch as those to its first samples and to the others."""
    parts = [
        Output(
            answer.logits[rows],
            {name: value[rows] for name, value in answer.features.items()},
            mask=None if answer.mask is None else answer.mask[rows],
        )
        for rows in (slice(0, first), slice(first, None))
    ]
    return parts[0], parts[1]


def logit_distance(student: Tensor, kept: Tensor, widths: Tensor) -> Tensor:
    """Mean of (z_s - z_kept)² over the classes that were there as each sample was kept: logits [B, K] and [B, K'], widths int64 [B]."""
    width = min(student.shape[1], kept.shape[1])
    counts = torch.arange(width, device=student.device) < widths[:, None]
    squares = (precise(student)[:, :width] - precise(kept)[:, :width]).square()
    return (squares * counts).sum() / counts.sum().clamp(min=1)
