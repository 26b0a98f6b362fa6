"""What says which channels matter least: the size of their weights, what the loss would lose, the scale of their batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distillctl.errors import ConfigError
from distillctl.models.adapter import Adapter
from distillctl.modes import evaluating
from distillctl.types import Batch, to

LEAST = 1e-12  # batch norms of fresh nets may all have a scale of 0


def scaled(importance: Tensor) -> Tensor:
    """By the mean of its group, so that groups can be compared."""
    return importance / importance.mean().clamp_min(LEAST)


def measure(name: str, net_name: str, module: nn.Module) -> Callable[[Any], Tensor | None]:
    """From a group of torch-pruning to the importance of its channels [C], None where nothing in it can be judged.

    magnitude: the mean square of what belongs to a channel over all layers that it goes through (Fang et al. 2023, L2). taylor: the mean of
    |w dL/dw| (Molchanov et al. 2019, eq. 8, of each batch rather than squared over all), from `gradients`. bn_scale: |gamma| (Liu et al. 2017).
    Raises ConfigError.
    """
    from torch_pruning import importance as measures

    if name == "magnitude":
        return measures.GroupMagnitudeImportance(p=2, normalizer=scaled)
    if name == "taylor":
        return measures.GroupTaylorImportance(normalizer=scaled)
    if not any(isinstance(part, _BatchNorm) and part.affine for part in module.modules()):
        raise ConfigError(f"prune=bn_scale: {net_name} has no batch norm with a scale; set prune=magnitude or prune=taylor")
    return measures.BNScaleImportance(normalizer=scaled)


def gradients(classifier: Adapter, batches: Iterable[Batch]) -> None:
    """Leave in each weight's `grad` the mean over batches of |gradient of the cross-entropy|: what differs in sign does not cancel.

    In eval mode, so that batch norms stay and nothing is random. Raises ConfigError where there is no batch.
    """
    parameters = [parameter for parameter in classifier.net.parameters() if parameter.requires_grad]
    device = parameters[0].device
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    count = 0
    with evaluating(classifier), torch.enable_grad():
        for batch in batches:
            loss = F.cross_entropy(classifier(to(batch.inputs, device)).logits.float(), batch.targets.to(device))
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total += gradient.abs() * len(batch.index)
            count += len(batch.index)
    if not count:
        raise ConfigError("prune=taylor takes gradients of training images, and was given none; set prune.samples=256")
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total / count


@contextmanager
def all_learn(module: nn.Module) -> Iterator[None]:
    """Every weight takes part in gradients inside; then those that were frozen are again, though they may be others by the same name, and none keeps one."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    module.requires_grad_(True)
    try:
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)
            parameter.grad = None
