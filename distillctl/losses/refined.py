"""What became of Hinton's loss: decoupled, by correlation, standardised, at a learned temperature, aligned at several levels, by confidence.

B batch, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.build import not_negative, positive
from distillctl.losses.inputs import hard_labels, precise, unit
from distillctl.losses.logits import AtTemperature, divergence, soft_targets, softened
from distillctl.types import Batch, Output


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, K - 1] of the classes that are not the sample's own."""
    rank = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, rank + (rank >= labels[:, None]))


def decoupled(student: Tensor, teacher: Tensor, targets: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """α T² KL of (own class, all others) + β T² KL among the others. Eq. 7 of Zhao et al. 2022 (DKD).

    Logits [B, K]; of mixed targets the class with the largest share is the own one. The others are gathered, not masked out by a large
    number, and everything stays a logarithm.
    """
    labels = hard_labels(targets)

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = precise(logits) / temperature
        rest = others(logits, labels)
        two = torch.stack((logits.gather(1, labels[:, None])[:, 0], rest.logsumexp(1)), dim=1)
        return two.log_softmax(1), rest.log_softmax(1)

    (own_s, rest_s), (own_t, rest_t) = split(student), split(teacher)
    return (alpha * divergence(own_s, own_t) + beta * divergence(rest_s, rest_t)) * temperature**2


def correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Pearson's ρ along `dim`; 0 where one of the two does not vary at all."""
    return (unit(one - one.mean(dim, keepdim=True), dim) * unit(other - other.mean(dim, keepdim=True), dim)).sum(dim)


def correlated(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """β T² (1 - mean ρ over samples) + γ T² (1 - mean ρ over classes) of softened answers [B, K]. Huang et al. 2022 (DIST)."""
    p_s, p_t = softened(student, temperature).exp(), softened(teacher, temperature).exp()
    between, within = 1 - correlation(p_s, p_t, 1).mean(), 1 - correlation(p_s, p_t, 0).mean()
    return (beta * between + gamma * within) * temperature**2


def standardised(logits: Tensor) -> Tensor:
    """Z-scores [B, K] of each sample's logits, by the standard deviation with K - 1. Alg. 1 of Sun et al. 2024 (LS).

    They add 1e-7 to the deviation; here only logits that are all the same are kept from a division by 0, and give 0.
    """
    logits = precise(logits)
    return unit(logits - logits.mean(1, keepdim=True), 1) * math.sqrt(logits.shape[1] - 1)


def alignment(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Σ over T of T² KL + ‖G_s - G_t‖² / B + ‖M_s - M_t‖² / K, G = p pᵀ over samples and M = pᵀ p over classes; logits [B, K].

    The three levels of Jin et al. 2023 (MLKD) for one view; they sum over a weakly and a strongly augmented one, and their code masks the
    confident half of samples and classes.
    """
    total = precise(student).new_zeros(())
    for temperature in temperatures:
        p_s, p_t = softened(student, temperature).exp(), softened(teacher, temperature).exp()
        samples = (p_s @ p_s.T - p_t @ p_t.T).square().sum() / len(p_s)
        classes = (p_s.T @ p_s - p_t.T @ p_t).square().sum() / p_s.shape[1]
        total = total + soft_targets(student, teacher, temperature) + samples + classes
    return total


def uncertainty(logits: Tensor) -> Tensor:
    """[B]: the entropy of softmax(z) over log K, in [0, 1]; logits [B, K]."""
    log_p = softened(logits, 1.0)
    return (-(log_p.exp() * log_p).sum(1) / math.log(logits.shape[1])).clamp(0, 1)


def weighted_soft_targets(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """T² times the mean over samples of w KL(teacher ‖ student), w [B] brought to a mean of 1; where all are 0, so is the loss.

    After Li et al. 2021 (Dynamic KD), who choose the samples whose answers have the largest entropy; here the choice is a matter of degree.
    """
    log_s, log_t = softened(student, temperature), softened(teacher, temperature)
    gaps = (log_t.exp() * (log_t - log_s)).sum(1)
    shares = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    return (shares * gaps).sum() * temperature**2


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor: below 0, descent on the loss is ascent for what is behind it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class Decoupled(AtTemperature):
    """Target and non-target classes apart (DKD)."""

    needs_labels = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0):
        super().__init__(temperature)
        self.alpha, self.beta = not_negative(alpha=alpha), not_negative(beta=beta)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return decoupled(student.logits, teacher.logits, batch.targets, self.alpha, self.beta, self.temperature)


class StandardisedDecoupled(Decoupled):
    """DKD on z-scores."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        z_s, z_t = standardised(student.logits), standardised(teacher.logits)
        return decoupled(z_s, z_t, batch.targets, self.alpha, self.beta, self.temperature)


class Correlated(AtTemperature):
    """Correlation within samples and within classes (DIST)."""

    def __init__(self, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0):
        super().__init__(temperature)
        self.beta, self.gamma = not_negative(beta=beta), not_negative(gamma=gamma)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return correlated(student.logits, teacher.logits, self.beta, self.gamma, self.temperature)


class Standardised(AtTemperature):
    """Hinton's loss on z-scores (LS)."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return soft_targets(standardised(student.logits), standardised(teacher.logits), self.temperature)


class Dynamic(AtTemperature):
    """Hinton's loss, most where the student is unsure (by=student), or where the teacher is sure (by=teacher)."""

    def __init__(self, by: str = "student", temperature: float = 4.0):
        super().__init__(temperature)
        if by not in ("student", "teacher"):
            raise ValueError(f"by={by} must be student or teacher")
        self.by = by

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        weights = uncertainty(student.logits.detach()) if self.by == "student" else 1 - uncertainty(teacher.logits)
        return weighted_soft_targets(student.logits, teacher.logits, weights, self.temperature)


class Aligned(nn.Module):
    """Samples, pairs of samples and pairs of classes (MLKD)."""

    needs_teacher = True

    def __init__(self, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0)):
        super().__init__()
        if not temperatures:
            raise ValueError(f"temperatures={list(temperatures)} names no temperature")
        self.temperatures = [positive(temperatures=temperature) for temperature in temperatures]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return alignment(student.logits, teacher.logits, self.temperatures)


class Curriculum(nn.Module):
    """Hinton's loss at a temperature that is learned against the student (CTKD, Li et al. 2023, with one temperature for all samples).

    T = low + (high - low) σ(raw). Its gradient is reversed by a factor that goes from 0 to -1 over `reversal_epochs` along a cosine.
    """

    needs_teacher = True

    def __init__(self, low: float = 1.0, high: float = 21.0, reversal_epochs: float = 10.0):
        super().__init__()
        self.low, self.high, self.reversal_epochs = positive(low=low), high, positive(reversal_epochs=reversal_epochs)
        if not high > low:
            raise ValueError(f"high={high} must be > low={low}")
        self.raw = nn.Parameter(torch.ones(()))
        self.progress = 0.0  # epochs done; a function of where the loop is, so no state

    def at(self, epoch: float, epochs: float) -> None:
        """Where training is, told by the loop before each step."""
        self.progress = epoch

    def factor(self) -> float:
        return (math.cos(math.pi * min(self.progress / self.reversal_epochs, 1.0)) - 1) / 2

    def temperature(self) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(Reversed.apply(self.raw, self.factor()))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return soft_targets(student.logits, teacher.logits, self.temperature())
