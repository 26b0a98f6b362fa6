"""Losses that compare a student's feature maps with a teacher's.

B batch, C and D channels, N = H x W positions. Maps of different size are pooled to the smaller, as `matched` does; each function takes one
pair of maps, each class sums over its pairs of taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.losses.inputs import as_read, inverse_root, layered, matched, precise, unit
from distillctl.losses.sums import gram, products, squared_gap
from distillctl.losses.tapped import STAGES, FeatureLoss
from distillctl.types import Batch, Output


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of the difference of maps [B, C, H, W]. Eq. 3 of Romero et al. 2015 (FitNets), whose sum is a mean here."""
    ours, theirs = matched(student, teacher)
    return squared_gap(ours, theirs).sum() / ours.numel()


def attention(values: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, N]: the mean of squares over channels, at length one."""
    return unit(values.square().mean(1).flatten(1))


def attention_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples and positions of the squared difference of attention. Zagoruyko & Komodakis 2017 (AT), in their code's form.

    Eq. 2 of the paper takes the norm over positions where the code takes the mean of squares; the usual weight of 1000 is the code's.
    """
    ours, theirs = matched(student, teacher)
    return (attention(ours) - attention(theirs)).square().mean()


def squared_kernels(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD of the channels of [B, C, N] and [B, D, N]: means over samples and pairs of channels of squared cosines.

    Squared lengths are on the diagonals of the products, and lengths are divided out of these, where there are fewer numbers than in the maps.
    """
    ours, theirs = gram(student), gram(teacher)
    one, other = (inverse_root(found.diagonal(dim1=1, dim2=2)) for found in (ours, theirs))

    def kernel(found: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (found * left[:, :, None] * right[:, None]).square().mean()

    return kernel(theirs, other, other) + kernel(ours, one, one) - 2 * kernel(products(student, teacher), one, other)


def summed_directions(values: Tensor) -> Tensor:
    """[B, C, N] -> [B, N, N]: the mean over channels of aaᵀ, each channel a at length one."""
    return gram(unit(values).mT) / values.shape[1]


def selectivity_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD between the channels of two maps, each flattened at length one, with the kernel (aᵀb)². Huang & Wang 2017 (NST).

    As (aᵀb)² is the inner product of aaᵀ and bbᵀ, it also is the squared distance of two N x N matrices: the cheaper way is taken.
    """
    ours, theirs = (values.flatten(2) for values in matched(student, teacher))
    c, d, n = ours.shape[1], theirs.shape[1], ours.shape[2]
    if n * (c + d) <= c * c + c * d + d * d:
        return (summed_directions(ours) - summed_directions(theirs)).square().sum((1, 2)).mean()
    return squared_kernels(ours, theirs)


def flow(first: Tensor, second: Tensor) -> Tensor:
    """[B, C, H, W], [B, D, H', W'] -> [B, C, D]: products of channels, mean over positions. Eq. 1 of Yim et al. 2017 (FSP)."""
    first, second = matched(first, second)
    return products(first.flatten(2), second.flatten(2)) / (first.shape[2] * first.shape[3])


def flow_gap(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean square of the difference of two flows, each between two maps of one net; channels must agree."""
    return F.mse_loss(flow(*student), flow(*teacher))


def information_gap(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """-log q(teacher | student) for a Gaussian of predicted mean [B, C, H, W] and learned variance [C], without its constant.

    Ahn et al. 2019 (VID); mean over everything, where the paper sums over channels and positions, as their code does.
    """
    mean, teacher = matched(mean, teacher)
    spread = precise(variance)
    squares = squared_gap(mean, teacher) * mean.shape[1] / mean.numel()
    return (squares / spread + spread.log()).mean() / 2


def margins(mean: Tensor, deviation: Tensor) -> Tensor:
    """[C]: the mean of what is negative in a Gaussian; where less than a thousandth is, -3 deviations. Heo et al. 2019 (OFD)."""
    mean, deviation = precise(mean), precise(deviation).clamp_min(1e-12)
    ratio = mean / deviation
    negative = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / (2 * torch.pi) ** 0.5
    return torch.where(negative > 1e-3, mean - deviation * density / negative.clamp_min(1e-3), -3 * deviation)


def overhaul_gap(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared distance to max(teacher, margin), but none where both are silent: student <= target <= 0. Heo et al. 2019 (OFD).

    Maps [B, C, H, W] from before the ReLU, margin [C] < 0; summed over channels and positions, mean over samples.
    """
    ours, theirs = matched(student, teacher)
    target = torch.maximum(theirs, precise(margin)[:, None, None])
    with torch.no_grad():  # the square of a distance to what is nearest moves the student as if that stood still
        nearest = torch.where(target > 0, target, torch.minimum(ours, target))
    return squared_gap(ours, nearest).sum() / len(ours)


def projection(wanted: int, given: int) -> nn.Module:
    """A learned 1x1 convolution where channels differ."""
    return nn.Identity() if wanted == given else nn.Conv2d(given, wanted, 1)


class FitNet(FeatureLoss):
    """Hints at one layer or several; the projection is learned together with the student, not in a stage of its own."""

    def __init__(self, student: str | Sequence[str] = "stage2", teacher: str | Sequence[str] = "stage2"):
        super().__init__(student, teacher)
        self.projections = nn.ModuleList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        for ours, theirs in self.maps(student, teacher):
            self.projections.append(projection(theirs.shape[1], ours.shape[1]).to(ours.device))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.projections, "prepare comes first"
        total = []
        for project, pair in zip(self.projections, self.maps(student, teacher), strict=True):
            total.append(hint(layered(project, *pair), pair[1]))
        return torch.stack(total).sum()


class LastFeature(FitNet):
    """What the classifier sees, as a vector."""

    def __init__(self, student: str | Sequence[str] = "pooled", teacher: str | Sequence[str] = "pooled"):
        super().__init__(student, teacher)


class AttentionTransfer(FeatureLoss):
    """Where a net looks (AT)."""

    takes_vectors = False

    def __init__(self, student: str | Sequence[str] = STAGES, teacher: str | Sequence[str] = STAGES):
        super().__init__(student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return torch.stack([attention_gap(*pair) for pair in self.maps(student, teacher)]).sum()


class NeuronSelectivity(FeatureLoss):
    """What each channel answers to (NST)."""

    takes_vectors = False

    def __init__(self, student: str | Sequence[str] = STAGES, teacher: str | Sequence[str] = STAGES):
        super().__init__(student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return torch.stack([selectivity_gap(*pair) for pair in self.maps(student, teacher)]).sum()


class Flow(FitNet):
    """How features change from one tap to the next (FSP). The paper asks for equal channels; a projection makes them so here."""

    def __init__(self, student: str | Sequence[str] = STAGES, teacher: str | Sequence[str] = STAGES):
        super().__init__(student, teacher)
        if len(self.student_taps) < 2:
            raise ValueError(f"student={list(self.student_taps)} must name two taps or more: a flow is between two")

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.projections, "prepare comes first"
        pairs = []
        for project, (ours, theirs) in zip(self.projections, self.maps(student, teacher), strict=True):
            with as_read(ours):
                pairs.append((project(ours), theirs))
        gaps = [flow_gap((first[0], second[0]), (first[1], second[1])) for first, second in pairwise(pairs)]
        return torch.stack(gaps).sum()


class VariationalInformation(FeatureLoss):
    """How well the teacher's features can be told from the student's (VID). The variances are learned: σ² = softplus(a) + FLOOR."""

    FLOOR = 1e-5

    def __init__(self, student: str | Sequence[str] = STAGES, teacher: str | Sequence[str] = STAGES, initial_variance: float = 5.0):
        super().__init__(student, teacher)
        if not initial_variance > self.FLOOR:
            raise ValueError(f"initial_variance={initial_variance} must be > {self.FLOOR}")
        self.initial_variance = initial_variance
        self.means, self.spreads = nn.ModuleList(), nn.ParameterList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        for ours, theirs in self.maps(student, teacher):
            width = theirs.shape[1]
            first, second, third = (nn.Conv2d(given, width, 1, bias=False) for given in (ours.shape[1], width, width))
            self.means.append(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third).to(ours.device))
            raw = torch.tensor(self.initial_variance - self.FLOOR, dtype=torch.float64).expm1().log().float()
            self.spreads.append(nn.Parameter(raw.repeat(width).to(ours.device)))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.means, "prepare comes first"
        total = []
        for mean, spread, pair in zip(self.means, self.spreads, self.maps(student, teacher), strict=True):
            variance = torch.logaddexp(spread, torch.zeros_like(spread)) + self.FLOOR  # softplus, exact for large a too
            total.append(information_gap(layered(mean, *pair), pair[1], variance))
        return torch.stack(total).sum()


class Overhaul(FeatureLoss):
    """Distances before the ReLU, where they say something (OFD); the l-th of L pairs counts 2^(l - L).

    The margins are those of Gaussians with the mean and deviation that the teacher's channels have in the batch given to `prepare`; the
    paper reads the two from the batch norm before the tap.
    """

    norms_batches = True

    def __init__(self, student: str | Sequence[str] = STAGES, teacher: str | Sequence[str] = STAGES):
        super().__init__(student, teacher)
        self.connectors, self.margins = nn.ModuleList(), nn.ParameterList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        for ours, theirs in self.maps(student, teacher):
            given, wanted = ours.shape[1], theirs.shape[1]
            self.connectors.append(nn.Sequential(nn.Conv2d(given, wanted, 1, bias=False), nn.BatchNorm2d(wanted)).to(ours.device))
            channels = precise(theirs.detach()).transpose(0, 1).flatten(1)
            margin = margins(channels.mean(1), channels.std(1, correction=0))
            self.margins.append(nn.Parameter(margin, requires_grad=False))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.connectors, "prepare comes first"
        total = []
        for number, pair in enumerate(self.maps(student, teacher)):
            gap = overhaul_gap(layered(self.connectors[number], *pair), pair[1], self.margins[number])
            total.append(gap / 2 ** (len(self.connectors) - 1 - number))
        return torch.stack(total).sum()
