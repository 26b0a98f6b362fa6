"""Fold batch norm into the convolution before it, in a model that learns no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distillctl.types import Inputs


def fold(model: nn.Module, samples: Inputs) -> list[nn.Conv2d]:
    """Give each convolution the weights of itself and the batch norm behind it, which goes; the convolutions that changed.

    The model is in eval mode. `samples`, one will do, are answered once to see who reads what: a pair stays as it is where something else
    reads what lies between, where a hook sits on either of the two, or where either is called more than once.
    """
    changed = []
    for conv, norm in pairs(model, samples):
        conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in folded(conv, norm))
        replace(model, norm, nn.Sequential(*norm.children()).eval())
        changed.append(conv)
    return changed


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of γ (W x + b - mean) / √(var + eps) + β as one convolution; computed in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() if conv.bias is None else conv.bias.detach().double() - norm.running_mean.double()
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias.detach().double()
    weight = conv.weight.detach().double() * scale.view(-1, 1, 1, 1)  # keeps its memory format
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def is_norm(part: nn.Module) -> bool:
    """Whether it is batch norm by recorded statistics; timm's kind has dropout and an activation as children, which follow in this order."""
    kind = type(part)
    known = kind is nn.BatchNorm2d or (kind.__module__.startswith("timm.layers.") and kind.__name__ == "BatchNormAct2d")
    return known and part.running_mean is not None


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Wherever the one is, put the other."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, new)


class Reads(TorchDispatchMode):
    """Counts how often operations and hooks read what convolutions give."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[int, tuple[Tensor, nn.Conv2d]] = {}  # by id; held, so that no other tensor gets the same
        self.reads: Counter[int] = Counter()
        self.calls: Counter[nn.Module] = Counter()
        self.normed: dict[nn.BatchNorm2d, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.count((args, kwargs))
        return func(*args, **(kwargs or {}))

    def count(self, values: Any) -> None:
        self.reads.update(id(value) for value in tree_leaves(values) if id(value) in self.given)

    def after_conv(self, conv: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        self.calls[conv] += 1
        self.given[id(output)] = (output, conv)

    def before_norm(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        self.calls[norm] += 1
        self.normed[norm] = inputs[0]

    def after_hooked(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.count((inputs, output))


def pairs(model: nn.Module, samples: Inputs) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, and the batch norms that alone read what they give."""
    seen, handles = Reads(), []
    for part in model.modules():
        hooked = bool(part._forward_hooks or part._forward_pre_hooks)
        if type(part) is nn.Conv2d:  # one of another kind may do more with its weight
            handles.append(part.register_forward_hook(seen.after_conv))
        if is_norm(part):
            handles.append(part.register_forward_pre_hook(seen.before_norm))
        if hooked:
            handles.append(part.register_forward_hook(seen.after_hooked))
    try:
        with torch.no_grad(), seen:
            seen.count(model(samples))  # what it gives back is read by others
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for norm, values in seen.normed.items():
        _, conv = seen.given.get(id(values), (None, None))
        if conv is not None and seen.calls[conv] == seen.calls[norm] == seen.reads[id(values)] == 1:
            found.append((conv, norm))
    return found
