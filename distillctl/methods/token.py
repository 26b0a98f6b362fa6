"""A transformer that learns by two tokens: one by the labels, one by the teacher."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.models.adapter import TOKEN
from distillctl.models.net import Net
from distillctl.types import Batch, Output, Terms


class TokenDistill(Method):
    """Touvron et al. 2021 (DeiT): terms that read the teacher see the distillation token's answer, the others the class token's.

    For nets with a distillation head of their own: timm's deit_*_distilled_*. At inference such a net answers with the mean of both.
    """

    needs_teacher = True

    @classmethod
    def check_loss(cls, loss: WeightedSum) -> None:
        if len({term.needs_teacher for term in loss.terms.values()}) != 2:
            raise ConfigError(
                f"method=token: the loss ({', '.join(loss.terms)}) must have a term for each token, one that reads the teacher and one that does not; "
                "take loss=hard"
            )

    @classmethod
    def check_net(cls, plan: Callable[[], Net], key: str, inputs: Contract) -> None:
        if key.startswith(("student", "assistants")) and not hasattr(net := plan().module, "set_distilled_training"):
            raise ConfigError(
                f"method=token: {key}={type(net).__name__} has no distillation token; name one that has: student=deit_tiny_distilled_patch16_224"
            )

    def __init__(self, student: nn.Module, loss: WeightedSum, teacher: Callable[[Batch], Output] | None = None):
        super().__init__()
        student.net.set_distilled_training(True)  # type: ignore[operator, union-attr]
        self.student, self.loss, self.teacher = student, loss, teacher
        self.taught = [name for name, term in loss.terms.items() if term.needs_teacher]
        self.labelled = [name for name in loss.terms if name not in self.taught]

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        guide = self.guide(batch)
        answer = self.student(batch.inputs)
        by_token: Tensor = answer.features[TOKEN]
        lessons = self.loss(answer._replace(logits=by_token), guide, batch, only=self.taught)
        labels = self.loss(answer, None, batch, only=self.labelled)
        return Terms(lessons.loss + labels.loss, labels.parts | lessons.parts)
