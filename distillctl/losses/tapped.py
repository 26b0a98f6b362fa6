"""A loss on tapped features: which it needs of the student and of the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from distillctl.losses.inputs import as_vector, feature, feature_map
from distillctl.types import Output

STAGES = ("stage1", "stage2", "stage3")


class FeatureLoss(nn.Module):
    """Pairs of taps, a student's with a teacher's.

    A loss with parameters of its own makes them in `prepare`, once, before there is an optimizer, from the outputs of a small batch.
    """

    needs_teacher = True
    norms_batches = False  # by batch norms of its own: they need two samples at a time
    takes_vectors = True  # as maps of one position; False: it compares positions with each other, and would be 0 whatever one holds

    def __init__(self, student: str | Sequence[str], teacher: str | Sequence[str]):
        super().__init__()
        self.student_taps, self.teacher_taps = tap_names(student=student), tap_names(teacher=teacher)
        if len(self.student_taps) != len(self.teacher_taps):
            raise ValueError(f"teacher={list(self.teacher_taps)} must name as many taps as student={list(self.student_taps)}")

    def maps(self, student: Output, teacher: Output) -> Iterator[tuple[Tensor, Tensor]]:
        """([B, C, H, W], [B, D, H', W']) for each pair of taps."""
        for ours, theirs in zip(self.student_taps, self.teacher_taps, strict=True):
            yield feature_map(student, ours, self.takes_vectors), feature_map(teacher, theirs, self.takes_vectors)

    def vectors(self, student: Output, teacher: Output) -> Iterator[tuple[Tensor, Tensor]]:
        """([B, C], [B, D]) for each pair of taps."""
        for ours, theirs in zip(self.student_taps, self.teacher_taps, strict=True):
            yield as_vector(feature(student, ours), student.mask), as_vector(feature(teacher, theirs), teacher.mask)


def tap_names(**taps: str | Sequence[str]) -> tuple[str, ...]:
    """`tap_names(student="last")` gives ("last",), or raises ValueError as `build` wants it."""
    ((role, given),) = taps.items()
    found = (given,) if isinstance(given, str) else tuple(given)
    if not found:
        raise ValueError(f"{role}={given} names no tap")
    return found
