"""Cut one box out of each image of a batch, scale it to a given size, mirror it.

B batch, H x W the image, S the side of what is cut out. All arithmetic on pixels is of integers, so a crop has equal bytes in every batch
and on every device.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from distillctl import draws

_ATTEMPTS = 10  # as torchvision: boxes are drawn until one fits
_SHAPES = 1024  # how many aspect ratios are told apart


def drawn_boxes(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], seed: int, stream: str, view: int, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes with a uniform share of the image's area and a log-uniform ratio of width to height, anywhere in the image.

    Returns int64 [4, B] (top, left, height, width) and bool [B]: false where none of ten drawn boxes fits, as is usual only for images far
    from square.
    """
    attempt = torch.arange(_ATTEMPTS, device=index.device)[:, None]
    share = draws.uniform(seed, f"{stream} area", view, index, attempt) * (area[1] - area[0]) + area[0]
    shape = draws.integers(_SHAPES, seed, f"{stream} ratio", view, index, attempt)
    # square roots of float64 and products are rounded once on every device; exponentials are not, hence the table
    side = (share * (height * width)).sqrt()
    root = _root_ratios(*ratio, index.device)[shape]
    tall, wide = (side / root).round().long(), (side * root).round().long()  # [attempts, B]
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.byte().argmax(dim=0, keepdim=True)
    tall, wide = tall.gather(0, first)[0], wide.gather(0, first)[0]
    found = fits.any(dim=0)
    tall, wide = tall.where(found, height), wide.where(found, width)
    corner = torch.arange(2, device=index.device)[:, None]
    room = torch.stack([height - tall + 1, width - wide + 1])
    top, left = draws.integers(room, seed, f"{stream} corner", view, index, corner)
    return torch.stack([top, left, tall, wide]), found


def central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest box in the middle of an image with a ratio of width to height in the given range: (top, left, height, width)."""
    tall = min(height, round(width / ratio[0]))
    wide = min(width, round(height * ratio[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def shifted(images: Tensor, top: Tensor, left: Tensor, mirror: Tensor, size: int, pad: int) -> Tensor:
    """Squares of side S out of images with `pad` black pixels around them, some mirrored.

    images: uint8 [B, C, H, W]; top, left: int64 [B], corners in the padded image; mirror: bool [B]; returns uint8 [B, C, S, S]
    """
    count, channels, height, width = images.shape
    wide, area = width + 2 * pad, (height + 2 * pad) * (width + 2 * pad)
    padded = F.pad(images, (pad, pad, pad, pad)).flatten()
    # a window at each place where one could begin, none of them copied: whole rows of the chosen ones are, not single pixels
    reach = (channels - 1) * area + (size - 1) * wide + size
    windows = padded.as_strided((len(padded) - reach + 1, channels, size, size), (1, area, wide, 1))
    start = torch.arange(count, device=images.device) * (channels * area) + top * wide + left
    return mirrored(windows.index_select(0, start), mirror)


def mirrored(images: Tensor, mirror: Tensor) -> Tensor:
    """uint8 [B, C, H, W] with the chosen images (bool [B]) seen in a mirror."""
    # `where`, in bits and in place: ten times as fast on a CPU
    change = images.flip(-1).bitwise_xor_(images).bitwise_and_(mirror[:, None, None, None].byte().neg_())
    return change.bitwise_xor_(images)


def resampled(images: Tensor, boxes: Tensor, mirror: Tensor, size: int) -> Tensor:
    """Boxes scaled to squares of side S by a triangle filter as wide as the scale (Pillow's antialiased bilinear), some mirrored.

    images: uint8 [B, C, H, W]; boxes: int64 [4, B] (top, left, height, width); mirror: bool [B]; returns uint8 [B, C, S, S]
    """
    top, left, tall, wide = boxes
    rows, row_weights = _taps(top, tall, images.shape[2], size)
    columns, column_weights = _taps(left, wide, images.shape[3], size)
    flip = mirror[:, None, None]
    columns, column_weights = columns.flip(1).where(flip, columns), column_weights.flip(1).where(flip, column_weights)
    upright = _weighted_rows(images.contiguous(), rows, row_weights)
    # columns are rows of the transpose: whole rows are copied many times faster than single pixels
    return _weighted_rows(upright.transpose(2, 3).contiguous(), columns, column_weights).transpose(2, 3).contiguous()


def _taps(start: Tensor, length: Tensor, extent: int, size: int) -> tuple[Tensor, Tensor]:
    """Which source pixels make each of S target pixels, and their weights in 1/256: both int64 [B, S, taps].

    The number of taps follows from the image's extent alone, never from the batch. Distances are in units of 1/(2S) pixel.
    """
    step = torch.arange(size, device=start.device)
    centre = (2 * size * start)[:, None] + (2 * step + 1) * length[:, None]
    reach = 2 * length.clamp(min=size)[:, None]
    taps = -(-2 * max(size, extent) // size)
    first = torch.div(centre - reach - size, 2 * size, rounding_mode="floor") + 1
    pixel = first[:, :, None] + torch.arange(taps, device=start.device)
    low, high = start[:, None, None], (start + length - 1)[:, None, None]
    weight = (reach[:, :, None] - ((2 * pixel + 1) * size - centre[:, :, None]).abs()).clamp(min=0)
    cumulative = (weight * ((pixel >= low) & (pixel <= high))).cumsum(dim=2)
    total = cumulative[:, :, -1:]
    shares = torch.div(512 * cumulative + total, 2 * total, rounding_mode="floor")  # rounded sums, so that the weights sum to 256
    return torch.minimum(torch.maximum(pixel, low), high), shares.diff(dim=2, prepend=torch.zeros_like(total))


def _weighted_rows(images: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """uint8 [B, C, H, W], int64 [B, S, taps], int64 [B, S, taps] -> uint8 [B, C, S, W]"""
    count, channels, height, width = images.shape
    size, taps = rows.shape[1:]
    image_start = (torch.arange(count * channels, device=images.device) * height).view(count, channels, 1)
    lines = images.view(count * channels * height, width)
    weights = weights.short()  # of the 16 bits of a sum none is lost, though a sign is: the upper byte is what counts
    total = torch.full((count, channels, size, width), 128, dtype=torch.int16, device=images.device)
    for tap in range(taps):
        line = lines.index_select(0, (image_start + rows[:, None, :, tap]).flatten())
        # cast first, then in place: faster than a product of uint8 and int16
        total += line.view(count, channels, size, width).short().mul_(weights[:, None, :, tap, None])
    return total.bitwise_right_shift_(8).byte()


@lru_cache(maxsize=8)
def _root_ratios(low: float, high: float, device: torch.device) -> Tensor:
    """Square roots of ratios, evenly spaced in the logarithm, rounded to 2^-32: coarser than what two C libraries may disagree about."""
    span = math.log(high / low)
    roots = [round(math.sqrt(low) * math.exp(span * (number + 0.5) / _SHAPES / 2) * 2**32) / 2**32 for number in range(_SHAPES)]
    return torch.tensor(roots, dtype=torch.float64, device=device)
