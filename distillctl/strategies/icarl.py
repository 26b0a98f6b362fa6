"""Each class a question of its own: old ones answered by the old model, new ones by labels; with exemplars, and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.losses.inputs import precise
from distillctl.models.net import Net
from distillctl.modes import evaluating
from distillctl.strategies.exemplars import KeepsExemplars, head_of
from distillctl.strategies.replay import learnt_together
from distillctl.strategies.strategy import Strategy, one
from distillctl.strategies.task import Samples
from distillctl.types import Batch, Output, Terms


class LwfMc(Strategy):
    """Rebuffi et al. 2017, section 4.1: iCaRL's loss without exemplars, answered by the net itself."""

    name = "lwf_mc"
    distils = own_formula = True

    @classmethod
    def about_known_classes(cls, node: Mapping[str, Any]) -> str | None:
        return f"strategy={cls.name} learns labels of new classes alone; take strategy=derpp, er or ewc"

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        return self.binary(self.student(batch.inputs), batch)

    def binary(self, answer: Output, batch: Batch) -> Terms:
        old = self.old(batch).logits if self.old is not None else None
        return one("binary", binary_distillation(answer.logits[:, : self.task.seen], old, batch.targets, self.task.old))


class Icarl(LwfMc, KeepsExemplars):
    """Rebuffi et al. 2017: with exemplars chosen by herding, and answered by the nearest mean of a class's exemplars.

    A step learns `memory.batch_size` exemplars beside the new samples, where the authors mix them into the epochs. The nearest of normalised means is
    the largest product with the feature, so the student ships with the means as its classifier: the file answers as the paper does.
    """

    name = "icarl"

    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more)
        if "head.weight" in self.past:  # what was shipped ends in means; learning goes on with what was learnt
            self.set_head(self.student, self.past["head.weight"], self.past["head.bias"])

    @classmethod
    def check_net(cls, plan: Callable[[], Net], key: str, inputs: Contract) -> None:
        net = plan()
        if not isinstance(head_of(net.module), nn.Linear):
            raise ConfigError(
                f"{key}={net.name}: icarl answers by class means in the place of a linear classifier, and this net ends in none"
            )

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        return learnt_together(self.student, batch, self.memory, self.binary)[1]

    @torch.no_grad()
    def after_task(self, student: nn.Module, samples: Samples) -> None:
        own = head_of(student.net)  # type: ignore[arg-type]
        self.head = own.weight.detach().clone(), own.bias.detach().clone() if own.bias is not None else None
        super().after_task(student, samples)
        with evaluating(student):
            exemplars, targets, _ = self.memory.held()
            means = class_means(self.features(student, exemplars), targets, self.task.seen)
        weight = torch.zeros_like(own.weight)
        weight[: self.task.seen] = means.to(weight)
        self.set_head(student, weight, None if own.bias is None else torch.zeros_like(own.bias))

    def set_head(self, student: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
        head = head_of(student.net)  # type: ignore[arg-type]
        with torch.no_grad():
            head.weight[: len(weight)] = weight.to(head.weight)
            if head.bias is not None and bias is not None and len(bias):
                head.bias[: len(bias)] = bias.to(head.bias)

    def carried(self) -> dict[str, Tensor]:
        weight, bias = self.head
        return {**super().carried(), "head.weight": weight, "head.bias": bias if bias is not None else weight.new_zeros(0)}


def binary_distillation(logits: Tensor, old: Tensor | None, targets: Tensor, known: int) -> Tensor:
    """Binary cross-entropy, summed over classes, mean over samples: old classes by the sigmoid of the old model's logits [B, >= known], new ones by labels.

    logits: [B, K] of all classes that came so far; targets: int64 [B]; known: how many of the classes are old. Algorithm 3 of Rebuffi et al. 2017.
    """
    logits = precise(logits)
    wanted = F.one_hot(targets, logits.shape[1]).to(logits)
    if old is not None and known:
        wanted = torch.cat([precise(old)[:, :known].sigmoid().to(logits), wanted[:, known:]], 1)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(logits)


def class_means(features: Tensor, targets: Tensor, classes: int) -> Tensor:
    """[classes, D]: normalised means of the normalised features of each class; zero of a class without any."""
    unit, means = F.normalize(features.double(), dim=1), []
    for label in range(classes):
        own = unit[targets == label]
        means.append(F.normalize(own.mean(0), dim=0) if len(own) else torch.zeros_like(unit[0]))
    return torch.stack(means)
