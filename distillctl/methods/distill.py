"""One student, and the teacher that it may have: plain distillation, and supervised training where there is none."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from distillctl.losses.weighted import WeightedSum
from distillctl.types import Batch, Output, Terms


class Method(nn.Module):
    """Owns student, teacher and loss; `players` names who is optimized, each with an optimizer of its own."""

    players: tuple[str, ...] = ("student",)
    student: nn.Module

    def forward(self, batch: Batch, player: str) -> Terms:
        raise NotImplementedError

    def at(self, epoch: float, epochs: int) -> None:
        """Told before each step how far the stage is, for what changes over it."""

    def trainable(self, player: str) -> list[nn.Parameter]:
        """What that player's optimizer owns: the student's and the loss's own parameters."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class Distill(Method):
    """`loss(student(batch), teacher(batch), batch)`."""

    def __init__(self, student: nn.Module, loss: WeightedSum, teacher: Callable[[Batch], Output] | None = None):
        super().__init__()
        self.student, self.loss, self.teacher = student, loss, teacher

    def at(self, epoch: float, epochs: int) -> None:
        self.loss.at(epoch, epochs)

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        answer = self.student(batch.inputs)
        guide = self.teacher(batch) if self.teacher is not None and self.loss.needs_teacher else None
        return self.loss(answer, guide, batch)
