"""The total: a weighted sum of named loss terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.build import build, kind_error
from distillctl.errors import ConfigError
from distillctl.types import Output, Terms


class WeightedSum(nn.Module):
    """`loss = Σ weight · term`. Terms of weight 0 are not computed; terms may own trainable parameters."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]):
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if weights[name] != 0})
        self.weights = {name: weights[name] for name in self.terms}

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms.values())

    def forward(self, student: Output, teacher: Output | None, targets: Tensor) -> Terms:
        """Computed outside autocast: each term brings its inputs to fp32 itself."""
        with torch.autocast(student.logits.device.type, enabled=False):
            parts = {name: self.weights[name] * term(student, teacher, targets) for name, term in self.terms.items()}
            total = torch.stack(tuple(parts.values())).sum()
        return Terms(total, {name: part.detach() for name, part in parts.items()})


def build_loss(config: Mapping[str, Any]) -> WeightedSum:
    """From `loss.<name> = {_target_, weight, ...}`. Raises ConfigError with the full key."""
    terms, weights = {}, {}
    for name, node in config.items():
        if not isinstance(node, Mapping):
            raise kind_error(f"loss.{name}", node, "a loss term with a _target_")
        weight = node.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise kind_error(f"loss.{name}.weight", weight, "a number")
        if not math.isfinite(weight) or weight < 0:
            raise ConfigError(f"loss.{name}.weight={weight} must be a finite number >= 0")
        rest = {key: value for key, value in node.items() if key != "weight"}
        terms[name], weights[name] = build(rest, nn.Module, f"loss.{name}"), float(weight)
    if not any(weights.values()):
        keys = ", ".join(f"loss.{name}.weight" for name in weights) or "loss"
        raise ConfigError(f"{keys}: all weights are zero, so there is nothing to learn from; give one a weight > 0")
    return WeightedSum(terms, weights)
