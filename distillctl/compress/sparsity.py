"""Zeros in place of the smallest weights of a net, which keeps its shape: what that does to its file, and how they stay zero in training."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import prune as pruning
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from distillctl.errors import ConfigError

HONEST = "zeros change neither the size of the file nor the speed by themselves: a compressed file is smaller, and a runtime with sparse kernels faster"


@dataclass(frozen=True)
class Sparsity:
    """What zeros make of a net's weights. share: of zeros among the weights of convolutions and linear layers; sizes in bytes."""

    share: float
    zeros: int
    weights: int
    file_bytes: int
    gzip_bytes: int
    said: str = HONEST

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def sparsify(net: nn.Module, ratio: float) -> Sparsity:
    """Set the share `ratio` of the weights of all convolutions and linear layers to zero, in place: those of the least magnitude in the whole net.

    The classifier's take part. Raises ConfigError.
    """
    if not 0 < ratio < 1:
        raise ConfigError(f"prune.ratio={ratio}: must be above 0 and below 1, the share of the weights that become zero")
    layers = weighted(net)
    if not layers:
        raise ConfigError("prune=unstructured: the net has no convolution and no linear layer")
    with torch.no_grad():
        magnitudes = torch.cat([layer.weight.flatten() for layer in layers])
        mask = pruning.L1Unstructured(amount=ratio).compute_mask(magnitudes, torch.ones_like(magnitudes))
        for layer, part in zip(layers, mask.split([layer.weight.numel() for layer in layers]), strict=True):
            layer.weight.mul_(part.view_as(layer.weight))
    return sparsity_of(net)


def sparsity_of(net: nn.Module) -> Sparsity:
    """Measured of the net's state as a file, without a record in it, and of what gzip makes of that at its default level."""
    counted = [layer.weight for layer in weighted(net)]
    zeros, weights = sum(int((weight == 0).sum()) for weight in counted), sum(weight.numel() for weight in counted)
    content = safetensors_bytes({name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()})
    return Sparsity(zeros / max(weights, 1), zeros, weights, len(content), len(gzip.compress(content, mtime=0)))


def weighted(net: nn.Module) -> list[Any]:
    """The layers whose weights are counted; one that is used twice, once, and weights that are another layer's, once."""
    found = {id(part.weight): part for part in net.modules() if isinstance(part, (_ConvNd, nn.Linear))}
    return list(found.values())


def keep_zeros(net: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """Let weights that are zero now be zero again after every step of an optimizer. Called where a stage is put together, before a checkpoint is loaded.

    There is no state: what a step moves off zero is put back before anything is saved, so a checkpoint and a moving average of the weights
    hold the same zeros, and a stage that is put together again from the weights that it began with goes on exactly. A weight that happens to
    become zero later is free. The handle takes it away again.
    """
    masks = [(layer, layer.weight != 0) for layer in weighted(net)]

    def put_back(*_: Any) -> None:
        with torch.no_grad():
            for layer, mask in masks:
                layer.weight.mul_(mask.to(layer.weight.device))

    return optimizer.register_step_post_hook(put_back)
