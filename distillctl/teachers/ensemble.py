"""Several teachers that never learn, whose answers become one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distillctl.losses.logits import softened
from distillctl.models.committee import Committee, mixture, tapped
from distillctl.teachers.frozen import Frozen, concatenated
from distillctl.types import Batch, Output


class Ensemble(Frozen):
    """A committee's answer to a batch, combined as `combine` says.

    mean_probability, fixed: a mixture of the members' softened probabilities, all alike or by given weights
    confidence, entropy: the same mixture with weights of each sample, by the labels or by the members' own certainty
    mean_logit: the mean of the logits
    mean_loss: as mean_probability, and `Output.members` holds each member's answer: a loss on logits takes the mean over them

    A loss softens by its temperature T, so the mixture at T is given as logits z with softmax(z / T) = Σ w softmax(z_k / T).
    """

    model: Committee

    def __init__(
        self,
        model: Committee,
        precision: torch.dtype,
        device: torch.device,
        channels_last: bool = True,
        *,
        combine: str = "mean_probability",
        temperature: Callable[[], float] = lambda: 1.0,
    ):
        super().__init__(model, precision, device, channels_last)
        self.combine, self.temperature = combine, temperature

    def __call__(self, batch: Batch) -> Output:
        pieces = self.in_pieces(self.model.answers, batch.inputs)
        answers = {name: concatenated([piece[name] for piece in pieces]) for name in self.model.names}
        logits = torch.stack([answer.logits for answer in answers.values()])
        members = tuple(answers.values()) if self.combine == "mean_loss" else ()
        return Output(self.combined(logits, batch.targets), tapped(answers), members)

    def combined(self, logits: Tensor, targets: Tensor) -> Tensor:
        """[M, B, K] -> [B, K]."""
        if self.combine == "mean_logit":
            return logits.mean(0)
        weights = self.model.weights
        if self.combine == "confidence":
            weights = confidence(logits, targets)
        elif self.combine == "entropy":
            weights = certainty(logits)
        return mixture(logits, weights, self.temperature())


def confidence(logits: Tensor, targets: Tensor) -> Tensor:
    """Weights [M, B] of members by their cross-entropy with the label; logits [M, B, K], targets int64 [B] or float [B, K].

    w_k = (1 - softmax_k(CE_k)) / (M - 1): eq. 2 of Zhang et al. 2022 (CA-MKD).
    """
    if len(logits) == 1:
        return logits.new_ones(logits.shape[:2])
    log_p = softened(logits, 1.0)
    if targets.is_floating_point():
        errors = -(log_p * targets.to(log_p)).sum(-1)
    else:
        errors = -log_p.gather(-1, targets.expand(len(logits), -1)[..., None])[..., 0]
    return (1 - errors.softmax(0)) / (len(logits) - 1)


def certainty(logits: Tensor) -> Tensor:
    """Weights [M, B] of members by the entropy H of their answers; logits [M, B, K].

    w_k = softmax_k(-H_k), H in nats at temperature 1: whoever is surer counts for more, as in Kwon et al. 2020 (EBKD), who weigh by
    entropy too; the softmax is our choice, so that weights are positive and sum to 1.
    """
    log_p = softened(logits, 1.0)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return (-entropy).softmax(0)
