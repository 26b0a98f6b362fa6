"""The total: a weighted sum of named loss terms."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.build import build, kind_error
from distillctl.errors import ConfigError
from distillctl.schedules import Schedule
from distillctl.types import Batch, Output, Terms


@dataclass(frozen=True)
class Scheduled:
    """A number of the config that changes over a stage: `value` times the schedule's factor."""

    term: str
    name: str  # "weight", or an attribute of the term
    value: float
    schedule: Schedule


class WeightedSum(nn.Module):
    """`loss = Σ weight · term`. Terms of weight 0 are not computed; terms may own trainable parameters."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float], scheduled: Sequence[Scheduled] = ()):
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if weights[name] != 0})
        self.weights = {name: weights[name] for name in self.terms}
        self.scheduled = [item for item in scheduled if item.term in self.terms]

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms.values())

    def taps(self, role: str) -> tuple[str, ...]:
        """What the terms read of the student or of the teacher, besides logits."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in getattr(term, f"{role}_taps", ())))

    def weigh_classes(self, weights: Tensor) -> None:
        """Let the terms about labels alone count each class by its weight, [K]."""
        for term in self.terms.values():
            if hasattr(term, "class_weights"):
                term.class_weights = weights

    def prepare(self, student: Output, teacher: Output | None, samples: int) -> None:
        """Let terms size their own parameters by the answers to a small batch; `samples` is above every sample's index."""
        for term in self.terms.values():
            prepare: Any = getattr(term, "prepare", None)
            if prepare is not None:
                prepare(student, teacher, samples)

    def at(self, epoch: float, epochs: float) -> None:
        """Bring what is scheduled to where the stage is. A function of these numbers alone, so nothing of it is saved."""
        for item in self.scheduled:
            value = item.value * item.schedule(epoch, epochs)
            if item.name == "weight":
                self.weights[item.term] = value
            else:
                setattr(self.terms[item.term], item.name, value)
        for term in self.terms.values():
            at: Any = getattr(term, "at", None)
            if at is not None:
                at(epoch, epochs)

    def forward(self, student: Output, teacher: Output | None, batch: Batch, only: Collection[str] | None = None) -> Terms:
        """Computed outside autocast: each term brings its inputs to fp32 itself. No gradient ever reaches the teacher.

        With `only`, the terms of these names; where that leaves none, a zero.
        """
        if teacher is not None:
            teacher = detached(teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            parts: dict[str, Tensor] = {
                name: self.weights[name] * value_of(term, student, teacher, batch)
                for name, term in self.terms.items()
                if only is None or name in only
            }
            total = torch.stack(tuple(parts.values())).sum() if parts else student.logits.new_zeros(())
        return Terms(total, {name: part.detach() for name, part in parts.items()})


def detached(answer: Output) -> Output:
    features = {name: feature.detach() for name, feature in answer.features.items()}
    return Output(answer.logits.detach(), features, tuple(detached(member) for member in answer.members), answer.mask)


def value_of(term: nn.Module, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
    """The term; of one that reads logits alone, the mean over the teachers where each is a lesson of its own."""
    if teacher is None or not teacher.members or not term.needs_teacher or hasattr(term, "teacher_taps"):
        return term(student, teacher, batch)
    return torch.stack([term(student, member, batch) for member in teacher.members]).mean()


def build_loss(config: Mapping[str, Any]) -> WeightedSum:
    """From `loss.<name> = {_target_, weight, ...}`. Raises ConfigError with the full key.

    A number of a term can be `{value: 1.0, warmup_epochs: 20}`, with `_target_` any Schedule for another shape than a warm-up.
    """
    terms, weights = {}, {}
    scheduled: list[Scheduled] = []
    for name, node in config.items():
        if not isinstance(node, Mapping):
            raise kind_error(f"loss.{name}", node, "a loss term with a _target_")
        rest = {}
        for key, value in {"weight": 1.0, **node}.items():
            if isinstance(value, Mapping) and "value" in value:
                item = build_scheduled(name, key, value)
                scheduled.append(item)
                value = item.value
            rest[key] = value
        weight = rest.pop("weight")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise kind_error(f"loss.{name}.weight", weight, "a number")
        if not math.isfinite(weight) or weight < 0:
            raise ConfigError(f"loss.{name}.weight={weight} must be a finite number >= 0")
        terms[name], weights[name] = build(rest, nn.Module, f"loss.{name}"), float(weight)
    if not config:
        raise ConfigError("loss is empty: choose one, as in loss=kd")
    if not any(weights.values()):
        keys = ", ".join(f"loss.{name}.weight" for name in weights)
        raise ConfigError(f"{keys}: all weights are zero, so there is nothing to learn from; give one a weight > 0")
    return WeightedSum(terms, weights, scheduled)


def build_scheduled(term: str, name: str, node: Mapping[str, Any]) -> Scheduled:
    """`{value, _target_, ...}`; without a `_target_` it is a warm-up to the value, which then stays."""
    key, value = f"loss.{term}.{name}", node["value"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise kind_error(f"{key}.value", value, "a finite number")
    shape = {"_target_": "distillctl.schedules.Linear", "final": 1.0} if "_target_" not in node else {}
    rest = {entry: item for entry, item in node.items() if entry != "value"}
    schedule: Schedule = build(shape | rest, Schedule, key)  # type: ignore[type-abstract]
    return Scheduled(term, name, float(value), schedule)
