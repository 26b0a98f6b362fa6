"""Teach each stage of the student by all that lie above it: knowledge review (ReviewKD, Chen et al. 2021).

B batch, C and D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.losses.inputs import as_read, pooled, precise
from distillctl.losses.tapped import FeatureLoss
from distillctl.types import Batch, Output

POOLS = (4, 2, 1)  # sizes that both maps are pooled to
WIDEST = 512
TAPS = ("stage1", "stage2", "stage3", "pooled")


def hierarchical_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of the difference [B, C, H, W] of the maps and of their pools of size 4, 2 and 1, those that are smaller than the maps.

    The maps count 1, and each pool that is used half of what came before: of maps of 8 x 8 the pools count ½, ¼, ⅛, of maps of 4 x 4 ½ and ¼.
    The paper's hierarchical context loss as its code runs it; divided by the sum of the weights.
    """
    gap = precise(student) - precise(teacher)  # the difference of pools is the pool of the difference
    total, weight, weights = gap.square().mean(), 1.0, 1.0
    for size in POOLS:
        if size < gap.shape[2]:
            weight /= 2
            total = total + weight * pooled(gap, (size, size)).square().mean()
            weights += weight
    return total / weights


class Fusion(nn.Module):
    """The paper's attention-based fusion of a stage with what came down from the stages above it, at its own size."""

    def __init__(self, given: int, middle: int, wanted: int, top: bool):
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(given, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.widen = nn.Sequential(nn.Conv2d(middle, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))
        self.attention = None if top else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())
        for convolution in (self.narrow[0], self.widen[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]

    def forward(self, values: Tensor, above: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] and what came down -> [B, D, *size] for the teacher to judge, and [B, middle, *size] for the stage below."""
        own = self.narrow(values)
        if self.attention is not None and above is not None:
            above = F.interpolate(above, own.shape[2:], mode="nearest")
            shares = self.attention(torch.cat((own, above), dim=1))
            own = own * shares[:, :1] + above * shares[:, 1:]
        if own.shape[2:] != size:
            own = F.interpolate(own, size, mode="nearest")
        return self.widen(own), own


class Review(FeatureLoss):
    """Fusions from the deepest tap to the shallowest; name the taps from shallow to deep."""

    norms_batches = True

    def __init__(self, student: str | Sequence[str] = TAPS, teacher: str | Sequence[str] = TAPS):
        super().__init__(student, teacher)
        self.fusions = nn.ModuleList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        pairs = list(self.maps(student, teacher))
        middle = min(WIDEST, pairs[-1][0].shape[1])
        for ours, theirs in pairs:
            top = len(self.fusions) == len(pairs) - 1
            self.fusions.append(Fusion(ours.shape[1], middle, theirs.shape[1], top).to(ours.device))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.fusions, "prepare comes first"
        gaps, above = [], None
        for fuse, (ours, theirs) in reversed(list(zip(self.fusions, self.maps(student, teacher), strict=True))):
            with as_read(ours):
                answer, above = fuse(ours, above, theirs.shape[2:])
            gaps.append(hierarchical_gap(answer, theirs))
        return torch.stack(gaps).sum()
