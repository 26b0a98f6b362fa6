"""Losses on what transformers compute of each token: only real tokens count, never those that fill texts up to a common length.

B batch, T tokens, C width. A loss is a mean over texts of what each makes by itself, so that neither its batch mates nor how far they fill it
up change a text's part in it, and pieces of a batch add up to the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillctl.errors import ConfigError
from distillctl.losses.inputs import feature, precise
from distillctl.types import Output


def real(values: Tensor, mask: Tensor) -> Tensor:
    """Values [B, T, ...] in full precision, 0 where the mask [B, T] says that no token is. What was there has no part in any gradient, NaN neither."""
    return precise(values).masked_fill(~mask[(...,) + (None,) * (values.ndim - 2)], 0.0)


def mean_over_texts(sums: Tensor, mask: Tensor, power: int = 1) -> Tensor:
    """Sums over each text's n real tokens, [B], divided by n^power; then the mean over texts. A text without any token counts 0."""
    return (sums / mask.sum(1).clamp_min(1).to(sums) ** power).mean()


def mask_of(student: Output, teacher: Output, ours: Tensor, theirs: Tensor, key: str) -> Tensor:
    """bool [B, T]: which tokens are real, for features [B, T, ...] of both. Raises ConfigError where the two saw different numbers of tokens."""
    if ours.shape[1] != theirs.shape[1]:
        raise ConfigError(
            f"{key}: the student has {ours.shape[1]} tokens where the teacher has {theirs.shape[1]}, and they are compared one by one; "
            "give both the same tokenizer and length, or take a loss on logits or on whole texts, as loss=kd or loss=pkd"
        )
    mask = torch.ones(ours.shape[:2], dtype=torch.bool, device=ours.device)
    for output in (student, teacher):
        if output.mask is not None:
            mask = mask & output.mask.to(mask.device)
    return mask


class TokenLoss(nn.Module):
    """Compares a student's tokens with a teacher's, one by one.

    reads_tokens: student and teacher have to see the same tokens at the same places. A subclass sizes itself in `prepare`, once, from the
    outputs to a small batch, and says there what of the two nets does not suit.
    """

    needs_teacher = True
    norms_batches = False
    reads_tokens = True
    key = "loss"  # where its keys are in a config, for messages

    def __init__(self, student_taps: tuple[str, ...], teacher_taps: tuple[str, ...]):
        super().__init__()
        self.student_taps, self.teacher_taps = student_taps, teacher_taps

    def check_tokens(self, student: Output, teacher: Output, ours: Tensor, theirs: Tensor) -> None:
        """Whether both saw texts of the same length: a look at values, for `prepare` alone. Features [B, T, ...]. Raises ConfigError."""
        mask_of(student, teacher, ours, theirs, self.key)
        if student.mask is not None and teacher.mask is not None and not torch.equal(student.mask, teacher.mask.to(student.mask.device)):
            raise ConfigError(
                f"{self.key}: student and teacher have texts of different length, and their tokens are compared one by one; "
                "give both the same tokenizer and template, or take a loss on logits or on whole texts, as loss=kd or loss=pkd"
            )


def stacked(output: Output, tap: str, dims: int) -> Tensor:
    """A tapped feature of so many dimensions. Raises ConfigError of any other, which is none of a transformer's layers."""
    values = feature(output, tap)
    if values.ndim != dims:
        raise ConfigError(
            f"tap {tap}: its shape {tuple(values.shape)} is none of a transformer's layers; take a loss on logits, or on pooled"
        )
    return values
