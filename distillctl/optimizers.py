"""From `optimizer.*` to an optimizer, and which of its parameters learn slower or decay less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from distillctl.build import build, kind_error

NORMS_AND_BIASES = "weight_decay_norm_bias"


def make_optimizer(
    config: Mapping[str, Any], parameters: Sequence[nn.Parameter], lr_scale: float, lr_factors: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.Optimizer:
    """`optimizer.*` over all `parameters`, each once. `initial_lr` is what a schedule's factor multiplies.

    lr_factors: what multiplies the learning rate of a parameter, 1 for those that it does not hold. The group with the largest
    learning rate comes first: it is the one that is shown. With `optimizer.weight_decay_norm_bias=false` vectors (biases, and the
    scales of norms) do not decay.
    """
    node = dict(config)
    all_decay = node.pop(NORMS_AND_BIASES, True)
    if not isinstance(all_decay, bool):
        raise kind_error(f"optimizer.{NORMS_AND_BIASES}", all_decay, "true or false")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        kind = ((lr_factors or {}).get(parameter, 1.0), all_decay or parameter.ndim > 1)
        groups.setdefault(kind, []).append(parameter)
    kinds = sorted(groups, reverse=True)
    given = [{"params": groups[factor, decays], **({} if decays else {"weight_decay": 0.0})} for factor, decays in kinds]
    optimizer = build(node, torch.optim.Optimizer, "optimizer", given)
    for (factor, _), group in zip(kinds, optimizer.param_groups, strict=True):
        group["lr"] = group["initial_lr"] = float(group["lr"]) * lr_scale * factor
    return optimizer
