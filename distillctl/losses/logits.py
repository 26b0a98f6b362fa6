"""Losses on logits: pure functions of tensors, and the small classes that give them a place in a config."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.build import fraction, positive
from distillctl.types import Output


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over samples; logits [B, K], targets int64 [B] or, for mixed samples, float [B, K]."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of softened answers [B, K]: summed over classes, mean over samples.

    Hinton et al. 2015, section 2; T² keeps the gradient's size when T changes.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


class CrossEntropy(nn.Module):
    """The labels' own term."""

    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = fraction(label_smoothing=label_smoothing)

    def forward(self, student: Output, teacher: Output | None, targets: Tensor) -> Tensor:
        return cross_entropy(student.logits, targets, self.label_smoothing)


class SoftTargets(nn.Module):
    """Hinton's knowledge distillation."""

    needs_teacher = True

    def __init__(self, temperature: float = 4.0):
        super().__init__()
        self.temperature = positive(temperature=temperature)

    def forward(self, student: Output, teacher: Output, targets: Tensor) -> Tensor:
        return soft_targets(student.logits, teacher.logits, self.temperature)
