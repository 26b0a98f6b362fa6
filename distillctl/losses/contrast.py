"""Tell a sample's teacher from those of thousands of others: contrastive representation distillation (CRD, Tian et al. 2020).

B batch, K negatives, N training samples, D dimensions of the embedding.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.build import fraction, positive
from distillctl.draws import integers, seed_of
from distillctl.losses.inputs import hard_labels, precise, unit
from distillctl.losses.tapped import FeatureLoss
from distillctl.types import Batch, Output

UNSEEN = -1


def contrast(positives: Tensor, negatives: Tensor, counts: Tensor, log_odds: Tensor | float) -> Tensor:
    """-log h of the positive and -Σ log(1 - h) of K negatives, mean over samples: the critic h of section 3.1.

    positives [B] and negatives [B, K] are log-scores, counts [B, K] says which negatives are any: those that are stand for all K.
    h = p / (p + K / N) for a score p; log_odds is log(K / N). Computed from logarithms, so no constant guards a division.
    """
    rest = torch.where(counts, F.logsigmoid(log_odds - negatives), 0.0).sum(1)
    rest = rest * counts.shape[1] / counts.sum(1).clamp_min(1)
    return -(F.logsigmoid(positives - log_odds) + rest).mean()


class ContrastiveRepresentation(FeatureLoss):
    """CRD. Both banks, which hold an embedding for each training sample, Z and the count of draws are in the checkpoint.

    All samples of a batch share the K negatives that are drawn for it, from a counter, on the device: the expectation is that of a draw for
    each, and products of matrices take the place of B x K x D gathered numbers. Samples of the own class and those not yet seen are no
    negatives. In the paper each sample draws among other classes, and those not yet seen are random vectors.
    """

    needs_labels = True
    banks: Tensor
    labels: Tensor
    log_z: Tensor
    draws: Tensor

    def __init__(
        self,
        student: str = "pooled",
        teacher: str = "pooled",
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        dim: int = 128,
        seed: int = 0,
    ):
        super().__init__(student, teacher)
        for name, value in (("negatives", negatives), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name}={value} must be >= 1")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed} must be in [0, 2^32 - 1]")
        self.negatives, self.dim, self.seed = negatives, dim, seed
        self.temperature, self.momentum = positive(temperature=temperature), fraction(momentum=momentum)
        self.embeddings = nn.ModuleList()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        """`samples`: one more than the largest `batch.index` that will come. The small batch sets Z, which stays."""
        pair = next(self.vectors(student, teacher))
        device = pair[0].device
        for values in pair:
            self.embeddings.append(nn.Linear(values.shape[1], self.dim).to(device))
        generator = torch.Generator().manual_seed(seed_of(self.seed, "crd banks"))
        bound = math.sqrt(3 / self.dim)  # about length one
        banks = (torch.rand(2, samples, self.dim, generator=generator) * 2 - 1) * bound
        self.register_buffer("banks", banks.to(device))  # of the student, of the teacher
        self.register_buffer("labels", torch.full((samples,), UNSEEN, device=device))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64, device=device))
        with torch.no_grad():
            drawn = self.banks[:, self.draw()]
            scores = torch.stack([own @ others.T for own, others in zip(self.embedded(pair), drawn.flip(0), strict=True)])
            mean = (scores / self.temperature).flatten(1).logsumexp(1) - math.log(scores[0].numel())
        self.register_buffer("log_z", mean + math.log(samples))

    def draw(self) -> Tensor:
        """int64 [K], a function of the seed and of how many were drawn before."""
        numbers = torch.arange(self.negatives, device=self.draws.device)
        return integers(len(self.labels), self.seed, "crd negatives", self.draws, numbers)

    def embedded(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[B, D] of the student and of the teacher, at length one."""
        ours, theirs = (unit(embed(precise(values))) for embed, values in zip(self.embeddings, pair, strict=True))
        return ours, theirs

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.embeddings, "prepare comes first"
        own = self.embedded(next(self.vectors(student, teacher)))
        labels, drawn = hard_labels(batch.targets), self.draw()
        known = self.labels[drawn]
        counts = (known != UNSEEN) & (known != labels[:, None]) & (drawn != batch.index[:, None])
        log_odds = math.log(self.negatives / len(self.labels))
        total = []
        for values, bank, log_z in zip(own, (self.banks[1], self.banks[0]), self.log_z, strict=True):  # each against the other's bank
            positives = (values * bank[batch.index]).sum(1) / self.temperature - log_z
            negatives = values @ bank[drawn].T / self.temperature - log_z
            total.append(contrast(positives, negatives, counts, log_odds))
        if self.training:
            self.remember(batch.index, labels, torch.stack(own).detach())
        return torch.stack(total).sum()

    @torch.no_grad()
    def remember(self, index: Tensor, labels: Tensor, own: Tensor) -> None:
        """Move the batch's rows of the banks towards what was seen of all ranks; own [2, B, D]."""
        index, labels, own = over_ranks(index), over_ranks(labels), over_ranks(own.transpose(0, 1)).transpose(0, 1)
        moved = self.momentum * self.banks[:, index] + (1 - self.momentum) * own
        self.banks[:, index] = unit(moved)
        self.labels[index] = labels
        self.draws += 1


def over_ranks(values: Tensor) -> Tensor:
    """All ranks' rows, in the order of the ranks, which may hold different numbers of them; no gradient."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    own = torch.tensor([len(values)], device=values.device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    padded = values.new_zeros(max(lengths), *values.shape[1:])
    padded[: len(values)] = values
    pieces = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(pieces, padded)
    return torch.cat([piece[:length] for piece, length in zip(pieces, lengths, strict=True)])
