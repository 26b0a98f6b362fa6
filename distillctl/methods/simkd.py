"""A student that answers by its teacher's own classifier: all it learns is the map in front of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.draws import seed_of
from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.losses.inputs import matched
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.models.adapter import Adapter
from distillctl.models.edits import BehindBottleneck, Edit, OtherFeatures, apply_edits, linear
from distillctl.models.net import Net
from distillctl.models.obtain import Obtained
from distillctl.models.points import TapPoint
from distillctl.models.taps import Catch, Taps
from distillctl.models.trace import Example, trace
from distillctl.teachers.frozen import Frozen
from distillctl.types import Batch, Output, Terms

MAP = "reused"  # the feature that a classifier averages and answers from: the teacher's last map, the student's projected one

ONE_TEACHER = "method=simkd reuses the classifier of one teacher, and teacher=ensemble has several; name one of its members as teacher"


class SimKD(Method):
    """Chen et al. 2022: the student's last map goes through a bottleneck to the teacher's channels, and on to the teacher's classifier.

    The bottleneck and the copy of the classifier, which stays as it is, ship with the student; the loss is that of `ReusedClassifier`. In
    the authors' code the projector sees the map at the smaller of both sizes; here the student's own, and the loss compares at the smaller.
    """

    needs_teacher = True
    trains_head = True  # it is the teacher's
    norms_batches = True
    asks_of_views = False

    def __init__(self, student: nn.Module, loss: WeightedSum, teacher: Frozen, *, inputs: Contract, factor: int = 2):
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor={factor} must be >= 1: the bottleneck is that much narrower than the teacher's map")
        self.student, self.loss, self.teacher = student, loss, teacher
        self.pool = f"net.{head_of_teacher(teacher, inputs)[0]}"

    @classmethod
    def check_net(cls, plan: Callable[[], Net], key: str, inputs: Contract) -> None:
        if ".members." in key:
            raise ConfigError(ONE_TEACHER)
        net = plan()
        if head_of(net.module, inputs.seen_by(net).net_example) is None:
            raise unfit(key, net.name)

    @classmethod
    def adapt(cls, node: Mapping[str, Any], student: Obtained, teacher: Frozen, inputs: Contract, seed: int) -> Obtained:
        """The bottleneck goes in front of the student's pool, and its classifier becomes a copy of the teacher's."""
        factor = node.get("factor", 2)
        net, classifier = student.net, student.classifier
        own = head_of(net.module, inputs.seen_by(net).net_example)
        if own is None:
            raise unfit("student", net.name)
        pool, head = own
        copy = linear(net.module.get_submodule(head))
        original = linear(teacher.model.get_submodule(f"net.{head_of_teacher(teacher, inputs)[1]}"))
        channels = original.in_features
        edits = (
            Edit(pool, str(BehindBottleneck(copy.in_features, max(1, channels // factor), channels))),
            Edit(head, str(OtherFeatures(channels))),
        )
        torch.manual_seed(seed_of(seed, "initialisation", "bottleneck"))
        apply_edits(net.module, edits)
        with torch.no_grad():
            copy.weight.copy_(original.weight)
            copy.bias.copy_(torch.zeros(()) if original.bias is None else original.bias)
        copy.requires_grad_(False)
        catch_map(classifier, f"{pool}.0")
        return dataclasses.replace(student, net=dataclasses.replace(net, edits=(*net.edits, *edits)))

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        with inputs_of(self.teacher.model.get_submodule(self.pool)) as maps:
            guide = self.teacher(batch)
        guide = guide._replace(features={**guide.features, MAP: maps[0].clone()})  # born in inference mode; a copy can be saved
        return self.loss(self.student(batch.inputs), guide, batch)


class ReusedClassifier(nn.Module):
    """Mean square of the projected map less the teacher's, both at the smaller of their sizes. Chen et al. 2022, section 3."""

    needs_teacher = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        if MAP not in student.features or MAP not in teacher.features:
            raise ConfigError("loss.simkd compares what method=simkd makes; add method=simkd, or take another loss")
        return F.mse_loss(*matched(student.features[MAP], teacher.features[MAP]))


def head_of(net: nn.Module, example: Example) -> tuple[str, str] | None:
    """The names of the global average pool and of the one linear layer that answers from what it gives; None where a net ends otherwise."""
    seen, _ = trace(net, example, leaves=False)
    parts = {call.module: net.get_submodule(call.module) for call in seen}
    learned = [place for place, call in enumerate(seen) if any(True for _ in parts[call.module].parameters(recurse=False))]
    if len(learned) < 2 or not isinstance(parts[seen[learned[-1]].module], nn.Linear):
        return None
    head = seen[learned[-1]]
    pools = [call for call in seen[learned[-2] : learned[-1]] if len(call.inputs) == 4 and averages(parts[call.module], call.inputs)]
    if not pools or pools[-1].inputs[1] != head.inputs[-1]:
        return None
    return pools[-1].module, head.module


def averages(part: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a module without weights gives the mean over all positions of maps [B, C, H, W], as a vector or as a map of one position."""
    if any(True for _ in part.parameters()):
        return False
    height, width = (max(2, side) for side in shape[2:])  # at one position much looks like a mean
    values = torch.linspace(-1, 1, shape[1] * height * width, device="cpu").view(1, shape[1], height, width)
    answer = part(values)
    return bool(answer.numel() == shape[1] and torch.allclose(answer.flatten(), values.mean((2, 3)).flatten(), atol=1e-6))


def head_of_teacher(teacher: Frozen, inputs: Contract) -> tuple[str, str]:
    """As `head_of`; raises ConfigError."""
    model = teacher.model
    if not isinstance(model, Adapter):
        raise ConfigError(ONE_TEACHER)
    found = head_of(model.net, inputs.seen_by(model).net_example)
    if found is None:
        raise unfit("teacher", type(model.net).__name__)
    return found


def unfit(key: str, name: str) -> ConfigError:
    return ConfigError(
        f"method=simkd: {key}={name} does not end in a global average pool and one linear layer; "
        "take a net that does, such as resnet20 or a resnet of torchvision or timm"
    )


def catch_map(classifier: Adapter, module: str) -> None:
    """Let the model's answers hold what comes out of `module`, beside what they hold already."""
    taps = classifier.taps or Taps({})
    taps.points[MAP] = point = TapPoint(module, "output")
    classifier.net.get_submodule(module).register_forward_hook(Catch(taps, MAP, point).after)
    classifier.taps = taps


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into `module` in here."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
