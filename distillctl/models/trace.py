"""The shapes that go into and come out of a net's modules, in the order of one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distillctl.modes import evaluating
from distillctl.types import Inputs

Example = Callable[[torch.device, torch.dtype], Inputs]  # one sample as a net is given it; what it holds does not matter


def pixels(image_size: int) -> Example:
    """An image [1, 3, S, S]."""
    return lambda device, dtype: torch.zeros(1, 3, image_size, image_size, device=device, dtype=dtype)


class Seen(NamedTuple):
    """One call of one module: its inputs and outputs, [B, C, H, W]."""

    module: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def trace(module: nn.Module, example: Example, leaves: bool = True) -> tuple[list[Seen], Exception | None]:
    """The modules in the order in which one sample leaves them, and what went wrong on the way, if anything.

    Shapes only, on the meta device: nothing is computed where the net allows that. leaves: only modules without parts of their own.
    """
    seen, error = _run(module, example, leaves, on_meta=True)
    if error is not None and not any(each.is_meta for each in module.parameters()):
        return _run(module, example, leaves, on_meta=False)  # some nets need real numbers; otherwise it fails again
    return seen, error


def _run(module: nn.Module, example: Example, leaves: bool, on_meta: bool) -> tuple[list[Seen], Exception | None]:
    seen: list[Seen] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, outputs: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(outputs, Tensor):
                if 0 in outputs.shape:
                    raise RuntimeError(f"nothing left after {name}")
                seen.append(Seen(name, tuple(inputs[0].shape), tuple(outputs.shape)))

        return hook

    watched = [(name, part) for name, part in module.named_modules() if not leaves or not any(True for _ in part.children())]
    handles = [part.register_forward_hook(watch(name)) for name, part in watched]
    first = next(module.parameters(), torch.zeros(()))
    device = torch.device("meta") if on_meta else first.device
    sample = example(device, first.dtype)
    try:
        with torch.no_grad(), evaluating(module):
            if on_meta:
                tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                functional_call(module, {name: tensor.to("meta") for name, tensor in tensors.items()}, (sample,))
            else:
                module(sample)
    except Exception as error:  # there are as many ways to fail on an image that is too small as there are nets
        return seen, error
    finally:
        for handle in handles:
            handle.remove()
    return seen, None
