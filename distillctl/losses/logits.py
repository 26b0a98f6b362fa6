"""Losses on logits: pure functions of tensors, and the small classes that give them a place in a config.

B batch, K classes. Every divergence is summed over classes and meant over samples, with T² inside. The labels play no part in those that
only compare answers, so that mixed targets change nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.build import fraction, positive
from distillctl.losses.inputs import precise
from distillctl.types import Batch, Output


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Mean over samples; logits [B, K], targets int64 [B] or, for mixed samples, float [B, K]; weights [K] of the classes.

    The mean is over the number of samples and not, as torch has it, over their weights, so that pieces of a batch add up to the whole.
    """
    logits = precise(logits)
    targets = targets.to(logits) if targets.is_floating_point() else targets
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    return F.cross_entropy(logits, targets, weights.to(logits), reduction="sum", label_smoothing=label_smoothing) / len(logits)


def binary_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Each class a question of its own: summed over classes, mean over samples; targets float [B, K], several may be 1, or int64 [B].

    A sample weighs what the classes that it has weigh in the mean; weights [K].

    Smoothing moves each target towards 1/2, which is what one class of two is in the smoothing of `cross_entropy`.
    """
    logits = precise(logits)
    if not targets.is_floating_point():
        targets = F.one_hot(targets, logits.shape[1])
    targets = targets.to(logits)
    samples = None if weights is None else (targets @ weights.to(logits) / targets.sum(1).clamp(min=1e-9))[:, None]
    smoothed = targets * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smoothed, samples, reduction="sum") / len(logits)


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities [B, K]."""
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def softened(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """log softmax(z / T) of logits [B, K]."""
    return F.log_softmax(precise(logits) / temperature, dim=-1)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """T² KL(teacher ‖ student) of softened answers [B, K].

    Hinton et al. 2015, section 2; T² keeps the gradient's size when T changes.
    """
    return divergence(softened(student, temperature), softened(teacher, temperature)) * temperature**2


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² times -Σ p_t log p_s: `soft_targets` and the teacher's own entropy, which moves no gradient."""
    return -(softened(teacher, temperature).exp() * softened(student, temperature)).sum(1).mean() * temperature**2


def reverse_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(student ‖ teacher): punishes what the teacher rules out, where `soft_targets` punishes what the student misses."""
    return soft_targets(teacher, student, temperature)


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² (KL(p_s ‖ m) + KL(p_t ‖ m)) / 2 with m = (p_s + p_t) / 2; at most T² log 2."""
    log_s, log_t = softened(student, temperature), softened(teacher, temperature)
    log_m = torch.logaddexp(log_s, log_t) - math.log(2)
    return (divergence(log_m, log_s) + divergence(log_m, log_t)) / 2 * temperature**2


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of each class's own sigmoid(z / T): for labels of which several may hold, where a softmax is wrong."""
    z_s, z_t = precise(student) / temperature, precise(teacher) / temperature
    yes = F.logsigmoid(z_t).exp() * (F.logsigmoid(z_t) - F.logsigmoid(z_s))
    no = F.logsigmoid(-z_t).exp() * (F.logsigmoid(-z_t) - F.logsigmoid(-z_s))
    return (yes + no).sum(1).mean() * temperature**2


def hard_teacher(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the class that the teacher names. Eq. 3 of Touvron et al. 2021 (DeiT), its second half."""
    return cross_entropy(student, teacher.argmax(1))


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """‖z_s - z_t‖², summed over classes, mean over samples. Kim et al. 2021; their code takes the mean over classes too."""
    return (precise(student) - precise(teacher)).square().sum(1).mean()


class CrossEntropy(nn.Module):
    """The labels' own term. class_weights: what a class counts, float [K], where they differ; data decide them, so no checkpoint holds them."""

    needs_teacher, needs_labels = False, True
    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)
        self.label_smoothing = fraction(label_smoothing=label_smoothing)

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        return cross_entropy(student.logits, batch.targets, self.label_smoothing, self.class_weights)


class BinaryCrossEntropy(CrossEntropy):
    """The labels' own term where several of them may hold."""

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        return binary_cross_entropy(student.logits, batch.targets, self.label_smoothing, self.class_weights)


class AtTemperature(nn.Module):
    """A term that softens both answers alike, and compares them."""

    needs_teacher = True
    compare: Callable[[Tensor, Tensor, float], Tensor]

    def __init__(self, temperature: float = 4.0):
        super().__init__()
        self.temperature = positive(temperature=temperature)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return self.compare(student.logits, teacher.logits, self.temperature)


class SoftTargets(AtTemperature):
    """Hinton's knowledge distillation. With reduction=mean it is divided by the number of classes too, as some papers' code does."""

    def __init__(self, temperature: float = 4.0, reduction: str = "batchmean"):
        super().__init__(temperature)
        if reduction not in ("batchmean", "mean"):
            raise ValueError(f"reduction={reduction} must be batchmean or mean")
        self.reduction = reduction

    def compare(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        loss = soft_targets(student, teacher, temperature)
        return loss / student.shape[1] if self.reduction == "mean" else loss


class SoftCrossEntropy(AtTemperature):
    """Cross-entropy with the teacher's softened answers."""

    compare = staticmethod(soft_cross_entropy)


class ReverseDivergence(AtTemperature):
    """KL the other way round."""

    compare = staticmethod(reverse_divergence)


class JensenShannon(AtTemperature):
    """The symmetric, bounded divergence."""

    compare = staticmethod(jensen_shannon)


class BinaryDivergence(AtTemperature):
    """Distillation where several labels may hold."""

    compare = staticmethod(binary_divergence)


class HardTeacher(nn.Module):
    """The teacher's best class as a label."""

    needs_teacher = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return hard_teacher(student.logits, teacher.logits)


class LogitDistance(nn.Module):
    """The logits themselves."""

    needs_teacher = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return logit_distance(student.logits, teacher.logits)
