"""Change each image of a batch by its own operation: RandAugment's and TrivialAugment's sets, with torchvision's meaning of each.

B batch, H x W the image. Operations and strengths are integers (strengths are steps of 1/30 of a range), and so is all arithmetic on
pixels: equal bytes in every batch and on every device. Where torchvision rounds float32 products, the exact integer may be one level off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from distillctl import draws

STEPS = 30
OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness", "posterize",
    "solarize", "autocontrast", "equalize",
)  # fmt: skip
_WARPS = range(1, 6)  # where the five operations that move pixels stand in OPERATIONS
_UNIT_BITS = 24  # fixed point of the matrices that move pixels
_UNIT = 2**_UNIT_BITS
_PER_MILLE = 1000


@dataclass(frozen=True)
class Ranges:
    """What the strongest step (30) of each operation means."""

    shear_per_mille: int
    blend_per_mille: int  # brightness, color, contrast and sharpness go from 1 to 1 -+ this
    rotate_degrees: int
    posterized_bits: int
    translate_pixels: int | None  # None: 150/331 of the side


RANDAUGMENT = Ranges(shear_per_mille=300, blend_per_mille=900, rotate_degrees=30, posterized_bits=4, translate_pixels=None)
TRIVIALAUGMENT = Ranges(shear_per_mille=990, blend_per_mille=990, rotate_degrees=135, posterized_bits=6, translate_pixels=32)


def randaugment(images: Tensor, seed: int, view: int, index: Tensor, num_ops: int, magnitude: int) -> Tensor:
    """Cubuk et al. 2020: `num_ops` drawn operations in a row, all of one magnitude (0 to 30) and a drawn sign; uint8 [B, 3, H, W]."""
    for turn in range(num_ops):
        operation = draws.integers(len(OPERATIONS), seed, "operation", view, index, turn)
        sign = 1 - 2 * draws.integers(2, seed, "sign", view, index, turn)
        images = changed(images, operation, sign * magnitude, RANDAUGMENT)
    return images


def trivialaugment(images: Tensor, seed: int, view: int, index: Tensor) -> Tensor:
    """Mueller and Hutter 2021 ("wide"): one drawn operation of a drawn magnitude and sign; uint8 [B, 3, H, W]."""
    operation = draws.integers(len(OPERATIONS), seed, "operation", view, index, 0)
    sign = 1 - 2 * draws.integers(2, seed, "sign", view, index, 0)
    magnitude = draws.integers(STEPS + 1, seed, "magnitude", view, index, 0)
    return changed(images, operation, sign * magnitude, TRIVIALAUGMENT)


def changed(images: Tensor, operation: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    """Every image after its operation.

    images: uint8 [B, 3, H, W]; operation: int64 [B], places in OPERATIONS; strength: int64 [B] in -30 .. 30
    """
    order = operation.argsort(stable=True)
    counts = operation.bincount(minlength=len(OPERATIONS)).tolist()
    still, moved = counts[0], sum(counts[: _WARPS.stop])
    operation, strength, ordered = operation[order], strength[order], images.index_select(0, order)
    table = _matrices(ranges, images.shape[2], images.shape[3], images.device)
    matrices = table[operation[still:moved] - _WARPS.start, strength[still:moved] + STEPS]
    groups = [ordered[:still], warped(ordered[still:moved], matrices)]
    own, strengths = ordered[moved:].split(counts[_WARPS.stop :]), strength[moved:, None, None, None].split(counts[_WARPS.stop :])
    for name, group, strong in zip(OPERATIONS[_WARPS.stop :], own, strengths, strict=True):
        groups.append(_COLOURINGS[name](group, strong, ranges) if len(group) else group)
    return torch.cat(groups).index_select(0, order.argsort())


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """The nearest source pixel for each pixel, black where there is none.

    images: uint8 [B, C, H, W]; matrices: int64 [B, 6], rows (x from x, x from y, shift of x; y from x, y from y, shift of y) in 1/2^24,
    that take twice the distance of a target pixel's centre from the image's centre to twice the source's.
    """
    count, channels, height, width = images.shape
    x_from_x, x_from_y, x_shift, y_from_x, y_from_y, y_shift = matrices[:, :, None, None].unbind(1)
    x = (2 * torch.arange(width, device=images.device) + 1 - width)[None, None, :]
    y = (2 * torch.arange(height, device=images.device) + 1 - height)[None, :, None]
    # from doubled and centred back to pixels, and half a pixel up to round: (n + side - 1 + 1) / 2
    column = (x_from_x * x + (x_from_y * y + (x_shift + width * _UNIT))) >> (_UNIT_BITS + 1)
    row = (y_from_x * x + (y_from_y * y + (y_shift + height * _UNIT))) >> (_UNIT_BITS + 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.mul_(width).add_(column).mul_(inside).flatten(1)[:, None].expand(-1, channels, -1)
    nearest = images.flatten(2).gather(2, place).view(count, channels, height, width)
    return nearest.mul_(inside[:, None])


@lru_cache(maxsize=16)
def _matrices(ranges: Ranges, height: int, width: int, device: torch.device) -> Tensor:
    """The matrix of each operation that moves pixels, at each strength from -30 to 30: int64 [5, 61, 6]."""

    def step(largest: float, strength: int) -> float:
        return largest * strength / STEPS

    def pixels(side: int, strength: int) -> int:
        numerator, denominator = (150 * side, 331) if ranges.translate_pixels is None else (ranges.translate_pixels, 1)
        return int(math.copysign(abs(strength) * numerator // (denominator * STEPS), strength))

    def fixed(*row: float) -> list[int]:
        return [round(number * _UNIT) for number in row]

    def rotation(strength: int) -> list[int]:
        angle = math.radians(step(ranges.rotate_degrees, strength))
        return fixed(math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0)

    strengths = range(-STEPS, STEPS + 1)
    shears = [step(ranges.shear_per_mille, strength) / _PER_MILLE for strength in strengths]
    rows = [
        [fixed(1, shear, shear * height, 0, 1, 0) for shear in shears],  # the first row of pixels stays (nearly) where it is
        [fixed(1, 0, 0, shear, 1, shear * width) for shear in shears],
        [fixed(1, 0, -2 * pixels(width, strength), 0, 1, 0) for strength in strengths],
        [fixed(1, 0, 0, 0, 1, -2 * pixels(height, strength)) for strength in strengths],
        [rotation(strength) for strength in strengths],
    ]
    return torch.tensor(rows, device=device)


def _factor(strength: Tensor, ranges: Ranges) -> Tensor:
    return (_PER_MILLE + strength * ranges.blend_per_mille // STEPS).int()


def _quotient(total: Tensor, divisor: Tensor | int) -> Tensor:
    """uint8 total / divisor without its fraction, cut off at 255; for total, whole numbers, below 2^22 and a divisor up to 10000.

    In float32, which is twice as fast as a division of integers. With the half, no quotient is so near to an integer that rounding, which
    may differ between devices, could cross it. A float32 total is overwritten.
    """
    return total.float().add_(0.5).div_(divisor).clamp_(max=255).int().byte()  # at once to bytes takes three times as long


def _blended(images: Tensor, degenerate: Tensor | int, factor: Tensor) -> Tensor:
    """factor x image + (1 - factor) x degenerate, cut off at 0 and 255, fractions dropped."""
    # whole numbers below 2^24, so float32 rounds none
    total = images.float().mul_(factor).add_(degenerate * (_PER_MILLE - factor)).clamp_(min=0)
    return _quotient(total, _PER_MILLE)


def _gray(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W]: torchvision's weights, which sum to 0.9999."""
    red, green, blue = images.float().unbind(1)
    return _quotient((2989 * red).add_(green, alpha=5870).add_(blue, alpha=1140), 10000)[:, None]


def brightness(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    return _blended(images, 0, _factor(strength, ranges))


def color(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    return _blended(images, _gray(images), _factor(strength, ranges))


def contrast(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    """Towards or away from the mean gray, which is no integer: the image has few levels, so each is blended once, in a table."""
    pixels = images.shape[2] * images.shape[3]
    gray = _gray(images).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64)[:, :, 0]
    factor = _factor(strength, ranges)[:, :, 0].long()
    level = torch.arange(256, device=images.device)
    total = (level * factor * pixels + gray * (_PER_MILLE - factor)).clamp(min=0)
    return _looked_up(images, total.div(_PER_MILLE * pixels, rounding_mode="floor").clamp(max=255).byte().expand(-1, 3, -1))


def sharpness(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    """Towards or away from a 3 x 3 blur; the outermost pixels stay as they are."""
    height, width = images.shape[2:]
    if height < 3 or width < 3:
        return images
    wide = images.short()
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    around = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
    inner = wide[..., 1:-1, 1:-1]
    blurred = _quotient(around + 4 * inner + 6, 13)
    result = images.clone()
    result[..., 1:-1, 1:-1] = _blended(inner, blurred, _factor(strength, ranges))
    return result


def posterize(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    dropped = (2 * strength.abs() * ranges.posterized_bits + STEPS) // (2 * STEPS)
    return images & (255 << dropped).byte()


def solarize(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    """Inverts what is at least 255 x (30 - strength) / 30."""
    threshold = (255 * (STEPS - strength.abs()) + STEPS - 1) // STEPS
    return images ^ (images >= threshold.byte()).byte().neg_()  # by bits, as `where` takes many times as long on a CPU


def autocontrast(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    return _quotient((images - low).float().mul_(255), (high - low).clamp(min=1)) + low * (high == low)


def equalize(images: Tensor, strength: Tensor, ranges: Ranges) -> Tensor:
    """Pillow's histogram equalization, channel by channel."""
    levels = images.flatten(2).long()
    histogram = torch.zeros((*levels.shape[:2], 256), dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    brightest = histogram.gather(2, levels.amax(dim=2, keepdim=True))
    step = (levels.shape[2] - brightest).div(255, rounding_mode="floor")
    below = histogram.cumsum(dim=2) - histogram
    table = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp(max=255).byte()
    return _looked_up(images, table.where(step > 0, torch.arange(256, dtype=torch.uint8, device=images.device)))


def _looked_up(images: Tensor, table: Tensor) -> Tensor:
    """uint8 [B, C, H, W] through tables uint8 [B, C, 256]."""
    return table.gather(2, images.flatten(2).long()).view_as(images)


_COLOURINGS: dict[str, Callable[[Tensor, Tensor, Ranges], Tensor]] = {
    change.__name__: change for change in (brightness, color, contrast, sharpness, posterize, solarize, autocontrast, equalize)
}
