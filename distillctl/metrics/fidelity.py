"""Where a student differs from its teacher: by class in accuracy, and in what their heads are given.

`N` samples, `K` classes, `P` and `Q` features of student and teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from distillctl.metrics import quality
from distillctl.runtime import Runtime

ClassLoss = TypedDict("ClassLoss", {"class": str, "n": int, "teacher": float, "student": float, "lost": float})


def lost_by_class(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, classes: Sequence[str]) -> list[ClassLoss]:
    """Accuracies on the samples of each class that has any, and what the student lost: the teacher's less its own; most lost first.

    logits [N, K], targets int64 [N]; `lost` in [-1, 1], negative where the student is the better.
    """
    targets = targets.cpu()
    counts = torch.bincount(targets, minlength=len(classes))
    hits = [
        torch.bincount(targets[quality.right(logits, targets)], minlength=len(classes)).double() / counts.clamp(min=1)
        for logits in (teacher_logits, student_logits)
    ]
    found: list[ClassLoss] = [
        {"class": name, "n": int(n), "teacher": teacher.item(), "student": student.item(), "lost": (teacher - student).item()}
        for name, n, teacher, student in zip(classes, counts, *hits, strict=True)
        if n
    ]
    return sorted(found, key=lambda entry: -entry["lost"])


def lost_in_words(lost: Sequence[ClassLoss], most: int = 3) -> str:
    """One line about the classes where the student lost most; empty where it lost nothing."""
    worst = [entry for entry in lost[:most] if entry["lost"] > 0]
    said = ", ".join(f"{entry['class']} {100 * entry['lost']:.1f} points (n {entry['n']})" for entry in worst)
    return f"lost most against the teacher: {said}" if said else ""


class LinearCKA:
    """Linear centred kernel alignment of two nets' features, from batches: section 3 of Kornblith et al. 2019.

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of centred X [N, P] and Y [N, Q]; 1 for features that a rotation and a scale bring together, in [0, 1].
    Kept are sums and products in float64, P^2 + Q^2 + P Q numbers however many samples there are. They are of features less
    their mean over the first batch: of large means the products would leave nothing but rounding.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.count = 0
        self.shifts: tuple[Tensor, ...] = ()
        self.sums: tuple[Tensor, ...] = ()
        self.products: tuple[Tensor, ...] = ()

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Features [B, P] and [B, Q] of the same samples; the first call is made on every rank."""
        pair = tuple(features.detach().double() for features in (student, teacher))
        if not self.shifts:
            self.shifts = tuple(self.runtime.mean(features.mean(0)) for features in pair)
        x, y = (features - shift for features, shift in zip(pair, self.shifts, strict=True))
        sums, products = (x.sum(0), y.sum(0)), (x.T @ x, y.T @ y, y.T @ x)
        self.count += len(x)
        self.sums = added(self.sums, sums)
        self.products = added(self.products, products)

    def value(self) -> float | None:
        """Of all ranks' samples; None where there are fewer than two, or one net's features are all alike or no finite numbers."""
        total = self.runtime.mean(torch.tensor(float(self.count), dtype=torch.float64, device=self.shifts[0].device))
        # means over ranks stand for sums: the factor cancels out
        x, y = (self.runtime.mean(part) for part in self.sums)
        xx, yy, yx = (self.runtime.mean(part) for part in self.products)
        xx, yy, yx = xx - x.outer(x) / total, yy - y.outer(y) / total, yx - y.outer(x) / total
        below = (xx.square().sum() * yy.square().sum()).sqrt()
        found = (yx.square().sum() / below).item()
        # of features that are all alike only rounding is left over: nothing to compare
        alike = any(part.diagonal().sum() <= 1e-12 * whole.diagonal().sum() for part, whole in zip((xx, yy), self.products, strict=False))
        if self.count < 2 or alike or not torch.isfinite(yx).all() or found != found:
            return None
        return min(found, 1.0)


def added(before: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(one + other for one, other in zip(before, more, strict=True)) if before else more


def as_vectors(features: Tensor) -> Tensor:
    """[B, P] of what a head is given: tokens [B, T, P] are averaged, as maps are where they are tapped."""
    return features.flatten(1, -2).mean(1) if features.ndim > 2 else features
