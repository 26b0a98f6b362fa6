"""One student, and the teacher that it may have: plain distillation, and supervised training where there is none."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.types import Batch, Output, Terms


class Distill(Method):
    """`loss(student(batch), teacher(batch), batch)`."""

    needs_teacher = True

    def __init__(self, student: nn.Module, loss: WeightedSum, teacher: Callable[[Batch], Output] | None = None):
        super().__init__()
        self.student, self.loss, self.teacher = student, loss, teacher

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        answer = self.student(batch.inputs)
        guide = self.guide(batch)
        return self.loss(answer, guide, batch)
