"""Bring answers and features into the form that losses compute with: full precision, maps, equal sizes, unit length.

B batch, C and D channels, K classes, T tokens, H x W positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.errors import ConfigError
from distillctl.types import Output

INSTEAD = "take loss=tinybert, loss=minilmv2 or loss=pkd"
FOR_TEXTS = f"tap pooled or cls_states.last, or {INSTEAD}"
NO_LENGTH = 1e-12  # a vector not longer than this has no direction; its square still is a normal float32


def precise(values: Tensor) -> Tensor:
    """float32 for everything below it; float64 stays, so that a formula can be checked to its last digits."""
    return values if values.dtype == torch.float64 else values.float()


def as_read(values: Tensor) -> torch.autocast:
    """Autocast to the precision of a tap: a layer of a loss's own computes in what the net does that it reads; formulas stay precise."""
    low = values.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(values.device.type, values.dtype if low else None, enabled=low)


def hard_labels(targets: Tensor) -> Tensor:
    """int64 [B]; of mixed targets, float [B, K], the class with the largest share."""
    return targets.argmax(1) if targets.is_floating_point() else targets


def feature(output: Output, tap: str) -> Tensor:
    """A tapped feature by name; `logits` are always there."""
    if tap == "logits":
        return output.logits
    if not isinstance(output.features.get(tap), Tensor):
        raise ConfigError(
            f"tap {tap}: nothing comes out of it, or no tensor; distillctl models taps=<name of the model> lists what can be tapped"
        )
    return output.features[tap]


def as_map(values: Tensor) -> Tensor:
    """[B, C, H, W] from a map, from tokens [B, T, C] that form a square, or from a vector [B, C], which is a map of one position.

    Tokens one more than a square start with a class token, which is left out: it has no place on the map.
    """
    if values.ndim == 4:
        return values
    if values.ndim == 2:
        return values[:, :, None, None]
    if values.ndim == 3:
        side = math.isqrt(values.shape[1])
        extra = values.shape[1] - side**2
        if extra <= 1:
            return values[:, extra:].transpose(1, 2).unflatten(2, (side, side))
    raise ConfigError(
        f"a feature of shape {tuple(values.shape)} is neither a map [B, C, H, W], nor a square of tokens [B, T, C] "
        "with or without a class token, nor a vector [B, C]; tap another layer: distillctl models taps=<name of the model> lists them"
    )


def feature_map(output: Output, tap: str, vectors: bool = True) -> Tensor:
    """A tapped feature as a map [B, C, H, W]. Of texts only vectors are, where a loss takes those: tokens have no height and width. Raises ConfigError."""
    values = feature(output, tap)
    if output.mask is not None and not vectors:
        raise ConfigError(f"tap {tap}: this loss compares the positions of a map with each other, and texts have none; {INSTEAD}")
    if output.mask is not None and values.ndim != 2:
        raise ConfigError(
            f"tap {tap}: its shape {tuple(values.shape)} is that of a text's tokens, and this loss compares maps or vectors; {FOR_TEXTS}"
        )
    return as_map(values)


def as_vector(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, C]: a vector as it is, a map or tokens by their mean over the positions; over those alone that a mask [B, T] says are a text's own."""
    if values.ndim == 2:
        return values
    if mask is None:
        return as_map(values).mean((2, 3))
    if values.shape[:-1] != mask.shape:
        raise ConfigError(f"a feature of shape {tuple(values.shape)} of texts is neither a vector [B, C] nor tokens [B, T, C]; {FOR_TEXTS}")
    return precise(values).masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def matched(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, C, H, W] and [B, D, H', W'] in full precision, both pooled to the smaller height and the smaller width."""
    size = smaller(student, teacher)
    return pooled(precise(student), size), pooled(precise(teacher), size)


def smaller(one: Tensor, other: Tensor) -> tuple[int, int]:
    """The smaller height and the smaller width of two maps."""
    return min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3])


def layered(layer: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """What a layer of the loss's own makes of a student's map, at the size that `matched` brings the pair to."""
    with as_read(student):
        return layer(pooled(student, smaller(student, teacher)))


def pooled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling [B, C, H, W] -> [B, C, *size], in full precision; a map of that size stays as it is."""
    height, width = values.shape[2:]
    if (height, width) == size:
        return values
    values = precise(values)
    if height % size[0] == 0 and width % size[1] == 0:  # the same numbers, and a backward that CUDA repeats bit for bit
        return F.avg_pool2d(values, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(values, size)


def inverse_root(squares: Tensor) -> Tensor:
    """1 / length of vectors from their length². One without a direction has 0, and gets no gradient: 1 / length has no bound."""
    return torch.where(squares > NO_LENGTH**2, squares.clamp_min(NO_LENGTH**2).rsqrt(), 0.0)


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors of length one along `dim`; one without a direction stays 0, and gets no gradient."""
    lengths = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors * torch.where(lengths > NO_LENGTH, 1 / lengths.clamp_min(NO_LENGTH), 0.0)
