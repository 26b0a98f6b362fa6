"""Losses on how samples lie to each other. They see the samples of a piece of the batch when gradients are accumulated or ranks share it.

B batch, C and D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.build import not_negative
from distillctl.losses.inputs import precise, unit
from distillctl.losses.sums import gram
from distillctl.losses.tapped import FeatureLoss
from distillctl.types import Batch, Output

SMALLEST_SHARE = 1e-7  # of a row's probability in PKT: two opposite samples have none, whose logarithm has no bound


def similarities(values: Tensor) -> Tensor:
    """[B, ...] -> [B, B]: inner products of the samples' flattened features, rows at length one."""
    flat = precise(values).flatten(1)
    return unit(gram(flat))


def similarity_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """‖G_t - G_s‖² / B²: features [B, ...] of any shapes. Tung & Mori 2019 (SP)."""
    return (similarities(teacher) - similarities(student)).square().mean()


def differences(features: Tensor) -> Tensor:
    """[B, C] -> [B, B, C]: i minus j. Not from inner products: between close samples those leave only rounding."""
    return features[:, None] - features[None]


def distances(features: Tensor) -> Tensor:
    """[B, C] -> [B, B], divided by the mean of those that are not 0; equal samples are 0 apart and get no gradient from it."""
    lengths = torch.linalg.vector_norm(differences(features), dim=2)
    mean = lengths.sum() / (lengths > 0).sum().clamp_min(1)
    return lengths / torch.where(mean > 0, mean, 1.0)


def angles(features: Tensor) -> Tensor:
    """[B, C] -> [B, B, B]: the cosine at sample j between i and k; 0 where two of them are the same."""
    directions = unit(differences(features))
    return directions @ directions.mT


def distance_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of pairwise distances, mean over all pairs. Park et al. 2019, section 3.2 (RKD-D)."""
    return F.smooth_l1_loss(distances(precise(student)), distances(precise(teacher)))


def angle_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of the cosines in triplets, mean over all triplets. Park et al. 2019, section 3.2 (RKD-A)."""
    return F.smooth_l1_loss(angles(precise(student)), angles(precise(teacher)))


def neighbourhood(features: Tensor) -> Tensor:
    """[B, C] -> [B, B]: (cosine + 1) / 2, each row a distribution, the sample itself included."""
    directions = unit(precise(features))
    shares = (directions @ directions.T + 1) / 2
    return (shares / shares.sum(1, keepdim=True)).clamp_min(SMALLEST_SHARE)


def neighbourhood_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all pairs of p_t log(p_t / p_s). Passalis & Tefas 2018 (PKT), with the cosine kernel.

    They add 1e-7 to both; here what is below it is lifted to it. The mean over B² entries ties the usual weight of 30000 to the batch size.
    """
    p_s, p_t = neighbourhood(student), neighbourhood(teacher)
    return (p_t * (p_t.log() - p_s.log())).mean()


def congruence_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over neighbours in the batch of Σ_d |Δ_i| |Δ_i+1|, with Δ = student - teacher, embeddings [B, C]; one sample alone gives 0.

    Peng et al. 2019 (CC) in the form that the CIFAR benchmark uses; the paper compares Gaussian kernels between all samples.
    """
    gap = (precise(student) - precise(teacher)).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


class SimilarityPreserving(FeatureLoss):
    """Which samples excite a layer alike (SP)."""

    def __init__(self, student: str | Sequence[str] = "last", teacher: str | Sequence[str] = "last"):
        super().__init__(student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return torch.stack([similarity_gap(*pair) for pair in self.maps(student, teacher)]).sum()


class Relational(FeatureLoss):
    """Distances and angles between samples (RKD)."""

    def __init__(
        self,
        student: str | Sequence[str] = "pooled",
        teacher: str | Sequence[str] = "pooled",
        distance: float = 25.0,
        angle: float = 50.0,
    ):
        super().__init__(student, teacher)
        self.distance, self.angle = not_negative(distance=distance), not_negative(angle=angle)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        gaps = [self.distance * distance_gap(*pair) + self.angle * angle_gap(*pair) for pair in self.vectors(student, teacher)]
        return torch.stack(gaps).sum()


class ProbabilisticTransfer(FeatureLoss):
    """Who is whose neighbour (PKT)."""

    def __init__(self, student: str | Sequence[str] = "pooled", teacher: str | Sequence[str] = "pooled"):
        super().__init__(student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return torch.stack([neighbourhood_gap(*pair) for pair in self.vectors(student, teacher)]).sum()


class Congruence(FeatureLoss):
    """Errors that neighbours in the batch share (CC), in an embedding that is learned on both sides."""

    def __init__(self, student: str = "pooled", teacher: str = "pooled", dim: int = 128):
        super().__init__(student, teacher)
        if dim < 1:
            raise ValueError(f"dim={dim} must be >= 1")
        self.dim = dim
        self.embeddings = nn.ModuleList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        for values in next(self.vectors(student, teacher)):
            self.embeddings.append(nn.Linear(values.shape[1], self.dim).to(values.device))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.embeddings, "prepare comes first"
        pair = next(self.vectors(student, teacher))
        return congruence_gap(*(embed(precise(values)) for embed, values in zip(self.embeddings, pair, strict=True)))
