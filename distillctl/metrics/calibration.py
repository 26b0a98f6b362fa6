"""Temperature scaling: one number by which logits are divided so that confidence says how often an answer is right.

`N` samples, `K` classes; float64 on the CPU throughout. The answers themselves stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillctl.metrics import quality

LOWEST, HIGHEST = 0.05, 20.0  # of a temperature: beyond them lies no calibration, but a set that is too small or answers that know nothing
STEPS = 100  # of Newton within a bracket: a handful does, and halving alone comes to the last bit within so many


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The T in [0.05, 20] that minimises the NLL of softmax(logits / T); section 4.2 of Guo et al. 2017.

    The NLL is convex in 1 / T: its slope has one zero, which is found by Newton's method kept in a bracket. It is never more than at T = 1 on
    the samples that it was fitted on. Rows that are no answer, or that rule their target out, say nothing about T and are left out. 1.0
    where there is no minimum: no such row, all classes alike in each, or every answer right, whose NLL falls for ever as T goes to 0.
    logits [N, K], targets int64 [N].
    """
    quality.right(logits, targets)  # raises ValueError of what cannot be measured
    scores, targets = logits.detach().cpu().double(), targets.cpu()
    # of each row what is above the target's logit, and below: T depends on these differences alone
    gaps = scores - scores.gather(1, targets[:, None])
    gaps = gaps[scores.amax(1).isfinite() & scores.gather(1, targets[:, None]).squeeze(1).isfinite()]
    if not len(gaps) or not (gaps > 0).any():
        return 1.0
    low, high, inverse = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(STEPS):
        slope, curvature = _slope(gaps, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    found = 1 / inverse
    if found <= LOWEST * (1 + 1e-6) or found >= HIGHEST * (1 - 1e-6):
        found = min(max(found, LOWEST), HIGHEST)
    return found if _nll(gaps, 1 / found) <= _nll(gaps, 1.0) else 1.0


def scaled_measures(logits: Tensor, targets: Tensor, fit_logits: Tensor, fit_targets: Tensor) -> dict[str, float]:
    """`temperature`, fitted on the second pair, and `ece_scaled` and `nll_scaled`, which the first has by it."""
    temperature = fit_temperature(fit_logits, fit_targets)
    scaled = logits.detach().cpu().double() / temperature
    return {
        "temperature": temperature,
        "ece_scaled": quality.expected_calibration_error(scaled, targets),
        "nll_scaled": quality.negative_log_likelihood(scaled, targets),
    }


def in_words(measured: dict[str, float], n: int, noun: str) -> str:
    """One line: what the temperature changes. n: the samples that it was fitted on."""
    return (
        f"temperature {measured['temperature']:.3f}, fitted on {n:,} validation {noun}: "
        f"ECE {measured['ece']:.3f} -> {measured['ece_scaled']:.3f}, NLL {measured['nll']:.3f} -> {measured['nll_scaled']:.3f}"
    )


def _slope(gaps: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL by 1 / T: the mean over rows of the expectation of a gap, and of its variance."""
    slope = curvature = 0.0
    for piece in gaps.split(_rows(gaps)):
        p = (piece * inverse).softmax(1)
        gap = torch.where(p == 0, 0.0, piece)  # -inf is a class that is ruled out
        mean = (p * gap).sum(1)
        slope += mean.sum().item()
        curvature += (p * (gap - mean[:, None]).square()).sum().item()
    return slope / len(gaps), curvature / len(gaps)


def _nll(gaps: Tensor, inverse: float) -> float:
    return sum((piece * inverse).logsumexp(1).sum().item() for piece in gaps.split(_rows(gaps))) / len(gaps)


def _rows(gaps: Tensor) -> int:
    return max(1, quality.ELEMENTS_AT_ONCE // gaps.shape[1])
