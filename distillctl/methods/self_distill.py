"""A student that learns from the average of its own past."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from distillctl.averages import follow, warmed_up
from distillctl.build import fraction
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.types import Batch, Output, Terms


class SelfDistill(Method):
    """The teacher is an exponential moving average of the student's weights (Tarvainen & Valpola 2017, mean teacher).

    The average starts as the student, follows it after each step by `decay` (faster early on), answers in eval mode, gets no gradient, and is part of the checkpoint. The student ships.
    """

    needs_teacher = False
    updates: torch.Tensor

    def __init__(self, student: nn.Module, loss: WeightedSum, teacher: Callable[[Batch], Output] | None = None, *, decay: float = 0.999):
        super().__init__()
        self.student, self.loss, self.decay = student, loss, fraction(decay=decay)
        self.average = copy.deepcopy(student).requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> SelfDistill:
        super().train(mode)
        self.average.eval()
        return self

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        answer = self.student(batch.inputs)
        with torch.no_grad():
            guide = self.average(batch.inputs) if self.loss.needs_teacher else None
        return self.loss(answer, guide, batch)

    def after_step(self) -> None:
        self.updates += 1  # on the device: nothing waits for it
        follow(self.average.state_dict(), self.student.state_dict(), warmed_up(self.decay, self.updates))
