"""How a layer's queries, keys and values lie to each other within a text (MiniLMv2, Wang et al. 2021, 2012.15828).

B batch, T tokens, W width of queries, keys or values, R relation heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillctl.errors import ConfigError
from distillctl.losses.tokens import TokenLoss, mask_of, mean_over_texts, real, stacked
from distillctl.types import Batch, Output

ROLES = ("queries", "keys", "values")


def relations(values: Tensor, heads: int, mask: Tensor) -> Tensor:
    """log softmax(A Aᵀ / √(W / R)) over the text's real tokens: [B, T, W] -> [B, R, T, T], a row for each token. R of section 3.1, its logarithm.

    A has the vectors of all attention heads side by side, cut anew into R. No real token's row gives a share to what is none.
    """
    parts = real(values, mask).unflatten(2, (heads, -1)).transpose(1, 2)
    scores = parts / math.sqrt(parts.shape[3]) @ parts.mT  # there are fewer numbers to divide before the product
    lowest = torch.finfo(scores.dtype).min  # finite, so that a text without any token gives no NaN
    return scores.masked_fill(~mask[:, None, None], lowest).log_softmax(3)


def relation_gap(student: Tensor, teacher: Tensor, heads: int, mask: Tensor) -> Tensor:
    """KL(teacher ‖ student) of two relations, mean over heads and each text's real rows: [B, T, W] and [B, T, V] -> []. L_i of section 3.1.

    Columns of what is no token have shares of exactly 0; its rows, made of zeros, are the same in both nets, so that neither adds anything.
    """
    ours, theirs = relations(student, heads, mask), relations(teacher, heads, mask)
    return mean_over_texts((theirs.exp() * (theirs - ours)).sum((2, 3)).mean(1), mask)


class RelationHeads(TokenLoss):
    """The sum of the three relations, with α of 1 each, of the student's last layer and one of the teacher's.

    relation_heads: into how many parts each vector is cut: 48 for a teacher of width 768 and 64 for one of 1024 in the paper; it has to divide
    the widths of both nets. teacher_layer: last, or its number from 1: the paper takes an upper middle one of large teachers.
    """

    key = "loss.minilmv2"

    def __init__(self, relation_heads: int = 48, teacher_layer: int | str = "last"):
        if relation_heads < 1:
            raise ValueError(f"relation_heads={relation_heads} must be >= 1")
        if teacher_layer != "last" and (isinstance(teacher_layer, str) or teacher_layer < 1):
            raise ValueError(f"teacher_layer={teacher_layer} must be last or a whole number >= 1")
        super().__init__(tuple(f"{role}.last" for role in ROLES), tuple(f"{role}.{teacher_layer}" for role in ROLES))
        self.relation_heads, self.teacher_layer = relation_heads, teacher_layer
        self.ready = False

    def pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        """[B, T, W] of the student and [B, T, V] of the teacher, by role."""
        taps = zip(self.student_taps, self.teacher_taps, strict=True)
        return [(stacked(student, ours, 3), stacked(teacher, theirs, 3)) for ours, theirs in taps]

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        pairs = self.pairs(student, teacher)
        self.check_tokens(student, teacher, *pairs[0])
        widths = [
            (role, name, values.shape[2])
            for role, pair in zip(ROLES, pairs, strict=True)
            for name, values in zip(("student", "teacher"), pair, strict=True)
        ]
        for role, name, width in widths:
            if width % self.relation_heads:
                common = math.gcd(*(width for _, _, width in widths))
                best = max(number for number in range(1, min(common, self.relation_heads) + 1) if common % number == 0)
                raise ConfigError(
                    f"{self.key}.relation_heads={self.relation_heads} does not divide the {name}'s {role}, which are {width} wide; "
                    f"take {self.key}.relation_heads={best}, the next lower that divides all of both nets"
                )
        self.ready = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.ready, "prepare comes first"
        gaps = []
        for ours, theirs in self.pairs(student, teacher):
            mask = mask_of(student, teacher, ours, theirs, self.key)
            gaps.append(relation_gap(ours, theirs, self.relation_heads, mask))
        return torch.stack(gaps).sum()
