"""Edit nets in ways that a JSON file records; above all, give one made for 224 px a stem for small images: a factor of 4 in its strides goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distillctl.errors import ConfigError

REMOVED = 4  # the classical CIFAR stem: conv1 at stride 1 (2) and no max pool (2)


class Edit(NamedTuple):
    """What became of one module. Plain data: it goes into a JSON file and comes back as a list of two strings."""

    module: str
    became: str  # one of the keys of EDITS, or one of those of SIZED and its sizes: "bottleneck 64 128 256"


class Seen(NamedTuple):
    """One call of one leaf module: its inputs and outputs, [B, C, H, W]."""

    module: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def small_stem(module: nn.Module, image_size: int, keep_kernels: bool, key: str = "student") -> tuple[Edit, ...]:
    """Edit `module` so that maps keep the image's resolution until a factor of 4 of its strides is gone.

    Every strided module that sees full resolution gets stride 1, parallel branches together; then the next ones, while the
    factor lasts. keep_kernels: weights that were trained stay usable, else a large first kernel becomes 3x3.
    """
    edits: list[Edit] = []
    removed = 1
    while removed < REMOVED:
        seen, _ = trace(module, image_size)  # a net that runs out of pixels further down still shows its first layers
        strided = [call for call in seen if _is_full(call, image_size) and _factor(module, call) > 1]
        factor = max((_factor(module, call) for call in strided), default=1)
        if factor == 1 or removed * factor > REMOVED:
            break
        step = [Edit(name, _becomes(module.get_submodule(name), keep_kernels)) for name in dict.fromkeys(call.module for call in strided)]
        apply_edits(module, step)
        edits += step
        removed *= factor
    if trace(module, image_size)[1] is not None:
        raise ConfigError(f"{key}.stem=small: this net does not run with its first strides removed; set {key}.stem=large")
    return tuple(edits)


def apply_edits(module: nn.Module, edits: Iterable[Sequence[str]]) -> None:
    """Do what edits say, or do again what `small_stem` did, from its answer or from that answer's JSON."""
    for name, became in edits:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, edited(module.get_submodule(name), became))


def edited(part: nn.Module, became: str) -> nn.Module:
    """What one module becomes."""
    if became in EDITS:
        return EDITS[became](part)
    kind, *sizes = became.split()
    return SIZED[kind](part, *map(int, sizes))


def trace(module: nn.Module, image_size: int, leaves: bool = True) -> tuple[list[Seen], Exception | None]:
    """The modules in the order in which one image leaves them, and what went wrong on the way, if anything.

    Shapes only, on the meta device: nothing is computed where the net allows that. leaves: only modules without parts of their own.
    """
    seen, error = _run(module, image_size, leaves, on_meta=True)
    if error is not None and not any(each.is_meta for each in module.parameters()):
        return _run(module, image_size, leaves, on_meta=False)  # some nets need real numbers; otherwise it fails again
    return seen, error


def _run(module: nn.Module, image_size: int, leaves: bool, on_meta: bool) -> tuple[list[Seen], Exception | None]:
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
    first = next(module.parameters())
    device = torch.device("meta") if on_meta else first.device
    image = torch.zeros(1, 3, image_size, image_size, device=device, dtype=first.dtype)
    try:
        with torch.no_grad(), _evaluating(module):
            if on_meta:
                tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                functional_call(module, {name: tensor.to("meta") for name, tensor in tensors.items()}, (image,))
            else:
                module(image)
    except Exception as error:  # there are as many ways to fail on an image that is too small as there are nets
        return seen, error
    finally:
        for handle in handles:
            handle.remove()
    return seen, None


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _is_full(call: Seen, image_size: int) -> bool:
    # give or take what padding adds and convolutions without padding lose before the first stride
    return len(call.inputs) == 4 and len(call.outputs) == 4 and 0.75 * image_size < call.inputs[-1] <= image_size + 8


def _factor(module: nn.Module, call: Seen) -> int:
    """By how much this module lowers the resolution, if that is something an edit can undo; else 1."""
    part = module.get_submodule(call.module)
    if isinstance(part, nn.Conv2d):
        return max(part.stride)
    if isinstance(part, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return 1
    stride = getattr(part, "stride", None)  # a pool or a blur: no weights, the same channels out as in
    same_channels = call.inputs[1] == call.outputs[1] and not any(True for _ in part.parameters())
    if stride is None or not same_channels or call.outputs[-1] >= call.inputs[-1]:
        return 1
    return max(stride) if isinstance(stride, (tuple, list)) else int(stride)


def _becomes(part: nn.Module, keep_kernels: bool) -> str:
    if not isinstance(part, nn.Conv2d):
        return "identity"
    patches = tuple(part.kernel_size) == tuple(part.stride) and part.kernel_size != (1, 1)
    # other kinds of convolution (same padding, standardised weights) compute more than nn.Conv2d does: only their stride goes
    if not keep_kernels and type(part) is nn.Conv2d and part.groups == 1 and (patches or max(part.kernel_size) > 3):
        return "3x3, stride 1"
    return "stride 1, same padding" if patches else "stride 1"


def _stride_one(part: nn.Module) -> nn.Module:
    assert isinstance(part, nn.Conv2d)
    part.stride = (1, 1)
    return part


def _stride_one_same(part: nn.Module) -> nn.Module:
    assert isinstance(part, nn.Conv2d)
    part.stride, part.padding = (1, 1), "same"
    return part


def _three_by_three(part: nn.Module) -> nn.Module:
    assert isinstance(part, nn.Conv2d)
    weight = part.weight
    new = nn.Conv2d(part.in_channels, part.out_channels, 3, padding=1, bias=part.bias is not None, device=weight.device, dtype=weight.dtype)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new.train(part.training)


EDITS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "stride 1": _stride_one,
    "stride 1, same padding": _stride_one_same,
    "3x3, stride 1": _three_by_three,
    "identity": lambda part: nn.Identity().train(part.training),
}


def _behind_bottleneck(part: nn.Module, channels_in: int, narrow: int, channels: int) -> nn.Module:
    """[B, C_in, H, W] -> [B, C, H, W] -> the module itself. The projector of Chen et al. 2022 (SimKD)."""
    bottleneck = nn.Sequential(
        nn.Conv2d(channels_in, narrow, 1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
    return nn.Sequential(bottleneck, part).train(part.training)


def _reading(part: nn.Module, features: int) -> nn.Module:
    """A linear layer with as many answers as before, of so many features, and with a bias. The module itself, so that hooks stay on it."""
    assert isinstance(part, nn.Linear)
    new = nn.Linear(features, part.out_features, device=part.weight.device, dtype=part.weight.dtype)
    part.in_features, part.weight, part.bias = features, new.weight, new.bias
    return part


SIZED: dict[str, Callable[..., nn.Module]] = {"bottleneck": _behind_bottleneck, "linear": _reading}
