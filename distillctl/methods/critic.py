"""A critic learns to tell the student's features from the teacher's, and the student learns to be taken for the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from distillctl.losses.inputs import as_vector, feature, precise
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.modes import evaluating
from distillctl.types import Batch, Output, Terms

DEFAULT_TAP = "pooled"


class Critic(Method):
    """The configured loss, and `weight` times -log D(r(v_s)) for the student; the critic D minimises -log D(v_t) - log(1 - D(r(v_s))).

    v are features at a tap as vectors [B, C], r a linear map to the teacher's size, which learns with the student. The non-saturating
    form of Goodfellow et al. 2014, on features as in Chung et al. 2020 (AFD). The critic, two hidden layers of `width`, is a player of its own;
    its layers are spectrally normalised (Miyato et al. 2018), without which the two of them diverge at learning rates that suit the student.
    """

    players = ("student", "critic")
    needs_teacher = True

    def __init__(
        self,
        student: nn.Module,
        loss: WeightedSum,
        teacher: Callable[[Batch], Output],
        *,
        weight: float = 1.0,
        student_tap: str = DEFAULT_TAP,
        teacher_tap: str = DEFAULT_TAP,
        width: int = 256,
    ):
        super().__init__()
        if not weight > 0:
            raise ValueError(f"weight={weight} must be > 0")
        if width < 1:
            raise ValueError(f"width={width} must be >= 1")
        self.student, self.loss, self.teacher = student, loss, teacher
        self.weight, self.taps, self.width = weight, (student_tap, teacher_tap), width

    @classmethod
    def reads(cls, node: Mapping[str, Any], role: str) -> tuple[str, ...]:
        return (str(node.get(f"{role}_tap", DEFAULT_TAP)),)

    def prepare(self, student: Output, teacher: Output | None) -> None:
        assert teacher is not None
        ours, theirs = self.vectors(student, teacher)
        self.projection = nn.Linear(ours.shape[1], theirs.shape[1]).to(ours.device)
        self.critic = nn.Sequential(
            nn.LayerNorm(theirs.shape[1]),
            spectral_norm(nn.Linear(theirs.shape[1], self.width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(self.width, self.width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(self.width, 1)),
        ).to(ours.device)

    def vectors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """[B, C] of the student and [B, D] of the teacher."""
        return as_vector(feature(student, self.taps[0]), student.mask), as_vector(feature(teacher, self.taps[1]), teacher.mask)

    def forward(self, batch: Batch, player: str) -> Terms:
        if player == "critic":
            with torch.no_grad(), evaluating(self.student):  # looking at it must not move its statistics
                answer = self.student(batch.inputs)
        else:
            answer = self.student(batch.inputs)
        guide = self.teacher(batch)
        ours, theirs = self.vectors(answer, guide)
        with torch.autocast(ours.device.type, enabled=False):
            imitation = self.projection(precise(ours))
            if player == "critic":
                told_apart = F.softplus(-self.critic(precise(theirs))).mean() + F.softplus(self.critic(imitation.detach())).mean()
                return Terms(told_apart, {"critic": told_apart.detach()})
            fooled = self.weight * F.softplus(-self.critic(imitation)).mean()
        terms = self.loss(answer, guide, batch)
        return Terms(terms.loss + fooled, {**terms.parts, "fooling": fooled.detach()})

    def trainable(self, player: str) -> list[nn.Parameter]:
        mine = set(self.critic.parameters())
        return [parameter for parameter in self.parameters() if parameter.requires_grad and (parameter in mine) == (player == "critic")]
