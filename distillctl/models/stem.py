"""Give a net made for 224 px a stem for small images: a factor of 4 in its strides goes."""

from __future__ import annotations

from torch import nn

from distillctl.errors import ConfigError
from distillctl.models.edits import Change, Edit, NoStride, NoStrideSamePadding, Removed, ThreeByThree, apply_edits
from distillctl.models.trace import Seen, pixels, trace

REMOVED = 4  # the classical CIFAR stem: conv1 at stride 1 (2) and no max pool (2)


def small_stem(module: nn.Module, image_size: int, keep_kernels: bool, key: str = "student") -> tuple[Edit, ...]:
    """Edit `module` so that maps keep the image's resolution until a factor of 4 of its strides is gone.

    Every strided module that sees full resolution gets stride 1, parallel branches together; then the next ones, while the
    factor lasts. keep_kernels: weights that were trained stay usable, else a large first kernel becomes 3x3.
    """
    edits: list[Edit] = []
    removed = 1
    while removed < REMOVED:
        seen, _ = trace(module, pixels(image_size))  # a net that runs out of pixels further down still shows its first layers
        strided = [call for call in seen if _is_full(call, image_size) and _factor(module, call) > 1]
        factor = max((_factor(module, call) for call in strided), default=1)
        if factor == 1 or removed * factor > REMOVED:
            break
        step = [
            Edit(name, str(_becomes(module.get_submodule(name), keep_kernels))) for name in dict.fromkeys(call.module for call in strided)
        ]
        apply_edits(module, step)
        edits += step
        removed *= factor
    if trace(module, pixels(image_size))[1] is not None:
        raise ConfigError(f"{key}.stem=small: this net does not run with its first strides removed; set {key}.stem=large")
    return tuple(edits)


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


def _becomes(part: nn.Module, keep_kernels: bool) -> Change:
    if not isinstance(part, nn.Conv2d):
        return Removed()
    patches = tuple(part.kernel_size) == tuple(part.stride) and part.kernel_size != (1, 1)
    # other kinds of convolution (same padding, standardised weights) compute more than nn.Conv2d does: only their stride goes
    if not keep_kernels and type(part) is nn.Conv2d and part.groups == 1 and (patches or max(part.kernel_size) > 3):
        return ThreeByThree()
    return NoStrideSamePadding() if patches else NoStride()
