"""How a student learns a batch of a stream: with kept samples beside it, by labels where there are some, and by a teacher where it knows something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from distillctl.data.split import UNLABELLED
from distillctl.losses.weighted import WeightedSum
from distillctl.strategies.memory import REPLAYED
from distillctl.strategies.replay import Er
from distillctl.types import Batch, Output, Terms


class FromStream(Er):
    """Experience replay on a stream. A teacher may have nothing to say yet (`knows`): then `alone` counts, the loss of labels by themselves. Of samples
    without labels the terms that read the teacher count. of_new: whether the teacher is asked about new samples too, or about kept ones alone."""

    name = "stream"
    teacher: Callable[[Batch], Output] | None

    def __init__(
        self,
        student: nn.Module,
        loss: WeightedSum,
        teacher: Callable[[Batch], Output] | None,
        *,
        alone: WeightedSum,
        of_new: bool = True,
        **more: Any,
    ):
        super().__init__(student, loss, teacher, **more)  # type: ignore[arg-type]
        self.alone, self.of_new = alone, of_new

    def guide(self, batch: Batch) -> Output | None:
        if self.teacher is None or not getattr(self.teacher, "knows", True) or not (self.of_new or batch.view >= REPLAYED):
            return None
        return self.teacher(batch) if self.loss.needs_teacher else None

    def lesson(self, answer: Output, batch: Batch) -> Terms:
        guide, labelled = self.guide(batch), bool((batch.targets != UNLABELLED).all())
        if guide is None:
            return self.alone(answer, None, batch, only=None if labelled else ())
        return self.loss(answer, guide, batch, only=None if labelled else self.about_answers)

    @property
    def can_learn_unlabelled(self) -> bool:
        """Whether anything tells it what samples without labels are."""
        return self.teacher is not None and bool(getattr(self.teacher, "knows", True)) and bool(self.about_answers)
