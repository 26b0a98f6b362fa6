"""Ten of the common corruptions of Hendrycks and Dietterich 2019 (ImageNet-C, CIFAR-10-C), each at five severities, by torch and Pillow alone.

An image is uint8 [3, H, W], and so is what becomes of it. Values are computed in [0, 1] in float64 on the CPU, one image at a time, and draws
are functions of (corruption, seed, index of the sample): the batch, the process and the machine change nothing. The severities of a
corruption share their draws, so that it is the strength alone that differs. Of what was published it differs in that: values are
rounded and not cut down to whole gray values, and nothing is stored as JPEG afterwards.

Left out of their fifteen are those that need files or libraries of their own: glass and motion blur, snow, frost, elastic transforms.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from distillctl import draws

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 85  # px, the geometric mean of 32 and 224: images below it have the strengths of CIFAR-10-C, others those of ImageNet-C

Draw = Callable[[int], Tensor]  # so many draws of an image, int64, all bits random


def corrupt(images: Tensor, index: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """uint8 [B, 3, H, W] of such images; index: int64 [B], names each sample. name: one of CORRUPTIONS; severity: 1 to 5."""
    assert images.dtype == torch.uint8, images.dtype
    assert images.shape[1] == 3, tuple(images.shape)
    assert severity in SEVERITIES, severity
    function, small, large = CORRUPTIONS[name]
    strength = (small if images.shape[-1] < SMALL else large)[severity - 1]
    pairs = zip(images.cpu(), index.tolist(), strict=True)
    found = [function(image, strength, partial(_drawn, seed, f"corruption {name}", sample)) for image, sample in pairs]
    return torch.stack(found).to(images.device)


def _drawn(seed: int, stream: str, sample: int, count: int) -> Tensor:
    return draws.bits(seed, stream, sample, torch.arange(count))


def source(size: int) -> str:
    """Whose strengths images of so many px have."""
    return "CIFAR-10-C" if size < SMALL else "ImageNet-C"


def gaussian_noise(image: Tensor, deviation: float, draw: Draw) -> Tensor:
    values = in_unit(image)
    return as_bytes(values + deviation * normal(draw, values.numel()).view(values.shape))


def shot_noise(image: Tensor, photons: float, draw: Draw) -> Tensor:
    """Poisson's law of what `photons` would bring to a white pixel, by the inverse of its distribution."""
    levels, first = poisson_levels(photons)
    value = image.long().flatten()
    # each of the 256 gray values has a distribution function of its own, all in one sorted row, two apart
    place = torch.searchsorted(levels, uniform(draw, value.numel()) + 2.0 * value)
    return as_bytes(((place - first[value]).double() / photons).view(image.shape))


def impulse_noise(image: Tensor, share: float, draw: Draw) -> Tensor:
    """Salt and pepper alike, in each channel for itself."""
    drawn = uniform(draw, image.numel()).view(image.shape)
    salt = (drawn * 2**20 % 1) < 0.5  # other bits than those that say whether
    return torch.where(drawn < share, torch.where(salt, 255, 0).to(torch.uint8), image)


def defocus_blur(image: Tensor, disk: tuple[float, float], draw: Draw) -> Tensor:
    kernel = disk_kernel(*disk)
    reach = kernel.shape[-1] // 2
    mirrored = "reflect" if reach < min(image.shape[1:]) else "replicate"  # an image smaller than the kernel has nothing to mirror
    return as_bytes(filtered(F.pad(in_unit(image)[:, None], (reach,) * 4, mode=mirrored), kernel)[:, 0])


def zoom_blur(image: Tensor, zooms: tuple[float, float], draw: Draw) -> Tensor:
    """The mean of the image and of its middle enlarged by 1 up to the largest zoom, in steps."""
    values, factors = in_unit(image), np.arange(1, *zooms).tolist()
    return as_bytes((values + sum(zoomed(values, factor) for factor in factors)) / (1 + len(factors)))


def fog(image: Tensor, thickness: tuple[float, float], draw: Draw) -> Tensor:
    """A cloud of the diamond-square algorithm in front. thickness: its weight, and by what it loses roughness from scale to scale."""
    weight, decay = thickness
    values, (height, width) = in_unit(image), image.shape[1:]
    side = 2 ** math.ceil(math.log2(max(height, width, 2)))
    cloud = plasma(uniform(draw, side * side).numpy() * 2 - 1, side, decay)[:height, :width]
    brightest = values.max()
    return as_bytes((values + weight * torch.from_numpy(cloud.copy())) * brightest / (brightest + weight))


def brightness(image: Tensor, more: float, draw: Draw) -> Tensor:
    """The value of HSV grows, hue and saturation stay: all channels by one factor, and black becomes gray."""
    values = in_unit(image)
    value = values.amax(0)
    brighter = (value + more).clamp(max=1)
    return as_bytes(torch.where(value > 0, values * (brighter / value.clamp(min=1e-9)), brighter))


def contrast(image: Tensor, share: float, draw: Draw) -> Tensor:
    """Towards each channel's mean."""
    values = in_unit(image)
    means = values.mean((1, 2), keepdim=True)
    return as_bytes((values - means) * share + means)


def pixelate(image: Tensor, share: float, draw: Draw) -> Tensor:
    picture = as_picture(image)
    width, height = picture.size
    small = picture.resize((max(int(width * share), 1), max(int(height * share), 1)), Image.Resampling.BOX)
    return as_tensor(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image: Tensor, quality: int, draw: Draw) -> Tensor:
    """As Pillow's libjpeg writes it; another version of that may round otherwise."""
    written = io.BytesIO()
    as_picture(image).save(written, "JPEG", quality=quality)
    return as_tensor(Image.open(written))


# how, and the strengths of severities 1 to 5 in CIFAR-10-C and in ImageNet-C, as the authors' scripts have them
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, Any, Draw], Tensor], tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (
        defocus_blur,  # radius and softness of the disk, px
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "zoom_blur": (
        zoom_blur,  # stop and step of np.arange, which reaches the first two stops by rounding, as theirs does
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def in_unit(image: Tensor) -> Tensor:
    return image.double() / 255


def as_bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def as_picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def uniform(draw: Draw, count: int) -> Tensor:
    """float64 [count] in [0, 1), of the upper 53 bits of each draw."""
    return ((draw(count) >> 11) & (2**53 - 1)).double() * 2.0**-53


def normal(draw: Draw, count: int) -> Tensor:
    """float64 [count] of the normal distribution: two of each draw, of 32 bits each, by Box and Muller 1958."""
    words = draw(-(-count // 2))
    high, low = (words >> 32) & (2**32 - 1), words & (2**32 - 1)
    length = (-2 * ((high.double() + 1) * 2.0**-32).log()).sqrt()
    angle = low.double() * (2 * math.pi * 2.0**-32)
    return torch.cat([length * angle.cos(), length * angle.sin()])[:count]


@lru_cache(maxsize=16)
def poisson_levels(photons: float) -> tuple[Tensor, Tensor]:
    """The distribution functions of 256 gray values, float64, each two above the one before, in one sorted row; and where each begins, int64 [256]."""
    means = torch.arange(256, dtype=torch.float64) / 255 * photons
    rows = []
    for number, mean in enumerate(means.tolist()):
        counts = torch.arange(math.ceil(mean + 12 * mean**0.5 + 12), dtype=torch.float64)
        # gammaincc would say the same, off by 2e-10
        at_most = (torch.xlogy(counts, torch.tensor(mean, dtype=torch.float64)) - mean - torch.lgamma(counts + 1)).exp().cumsum(0)
        rows.append(2.0 * number + at_most.clamp(max=1))
    lengths = torch.tensor([len(row) for row in rows])
    return torch.cat(rows), lengths.cumsum(0) - lengths


@lru_cache(maxsize=16)
def disk_kernel(radius: float, softness: float) -> Tensor:
    """float64 [1, 1, S, S]: a disk of equal weights, its edge softened by a Gaussian over 3 px, over 5 px of one with a radius above 8."""
    span = 8 if radius <= 8 else int(radius)
    soft = 1 if radius <= 8 else 2
    side = torch.arange(-span, span + 1, dtype=torch.float64)
    disk = (side[:, None].square() + side.square() <= radius**2).double()
    line = torch.exp(-torch.arange(-soft, soft + 1, dtype=torch.float64).square() / (2 * softness**2))
    line = line / line.sum()
    padded = F.pad((disk / disk.sum())[None, None], (soft,) * 4, mode="reflect")
    kernel = F.conv2d(padded, line.outer(line)[None, None])
    kernel = kernel / kernel.sum()  # of the largest disks theirs adds up to 1.01, as the softened edge is mirrored
    empty = (kernel[0, 0].amax(0) < 1e-12).long().argmin().item()  # columns at the edge that weigh nothing
    return kernel[..., empty : kernel.shape[-1] - empty, empty : kernel.shape[-1] - empty].contiguous()


def filtered(values: Tensor, kernel: Tensor) -> Tensor:
    """The correlation [3, 1, H, W] with a kernel [1, 1, S, S], without what reaches over the edge; wide ones by the Fourier transform, 25 times as fast."""
    side = kernel.shape[-1]
    if side <= 7:
        return F.conv2d(values, kernel)
    size = values.shape[2:]
    product = torch.fft.rfft2(values) * torch.fft.rfft2(kernel.flip(-1, -2), s=size)
    return torch.fft.irfft2(product, s=size)[..., side - 1 :, side - 1 :]


def zoomed(values: Tensor, factor: float) -> Tensor:
    """The middle [3, H, W], enlarged linearly and cut to the size that it had."""
    height, width = values.shape[1:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = values[None, :, top : top + rows, left : left + columns]
    size = (max(round(rows * factor), height), max(round(columns * factor), width))
    large = F.interpolate(middle, size, mode="bilinear", align_corners=True)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, top : top + height, left : left + width]


def plasma(drawn: np.ndarray[Any, Any], side: int, decay: float) -> np.ndarray[Any, Any]:
    """Fournier, Fussell and Carpenter 1982: heights [side, side] in [0, 1], by halving squares; the edges meet. drawn: [side * side] in [-1, 1)."""
    heights, step, rough, used = np.zeros((side, side)), side, 100.0, 0

    def around(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        nonlocal used
        own = drawn[used : used + sums.size].reshape(sums.shape)
        used += sums.size
        return sums / 4 + rough * rough * own

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        sums = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = around(sums + np.roll(sums, -1, 1))
        middles = heights[half::step, half::step]
        across, down = middles + np.roll(middles, 1, 0), middles + np.roll(middles, 1, 1)
        heights[::step, half::step] = around(across + corners + np.roll(corners, -1, 1))
        heights[half::step, ::step] = around(down + corners + np.roll(corners, -1, 0))
        step, rough = half, rough / decay
    heights -= heights.min()
    return heights / max(heights.max(), 1e-12)
