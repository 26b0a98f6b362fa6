"""How images lie in the input of a file, whoever exported it, and how ours are laid for it. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.errors import CheckpointError
from distillctl.formats.format import IMAGE, PIXELS, Takes

KINDS: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}
CHANNELS_FIRST, CHANNELS_LAST, FLAT = "NCHW", "NHWC", "flat"
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow makes gray of colours


@dataclass(frozen=True)
class Layout:
    """takes: what it is given here, whatever it wants. order: of its dimensions. channels: 3, or 1 where it sees gray; flat rows are gray, row by row."""

    takes: Takes
    order: str
    channels: int
    dtype: np.dtype[Any]

    def laid(self, inputs: np.ndarray) -> np.ndarray:
        """From uint8 [N, H, W, 3] of images, from float32 [N, 3, S, S] of pixels, to what the file wants."""
        last = inputs if self.takes.kind == IMAGE else inputs.transpose(0, 2, 3, 1)
        if self.channels == 1:
            last = gray(last)
        if self.order == FLAT:
            last = last.reshape(len(last), -1)
        return np.ascontiguousarray(last.transpose(0, 3, 1, 2) if self.order == CHANNELS_FIRST else last, self.dtype)


def layout_of(file: Path, name: str, kind: str, shape: Sequence[int | str | None]) -> Layout:
    """Of an input as ONNX Runtime describes it. Raises CheckpointError where it is none for images."""
    edges = [edge if isinstance(edge, int) and edge > 0 else None for edge in shape]
    dtype = KINDS.get(kind)
    found = placed(edges) if dtype is not None else None
    if dtype is None or found is None:
        raise CheckpointError(
            f"{file}: its input {name} is {kind} {list(shape)}; images are uint8 or float [N, H, W, C] or [N, C, H, W] of 3 channels or 1, "
            "or flat rows of gray squares"
        )
    order, channels, sides = found
    known = set(sides) - {None}
    if len(known) > 1:
        raise CheckpointError(f"{file}: its input {name} is {' x '.join(map(str, sides))} px, and images here are squares")
    return Layout(Takes(IMAGE if dtype == np.uint8 else PIXELS, edges[0], next(iter(known), None)), order, channels, dtype)


def placed(edges: Sequence[int | None]) -> tuple[str, int, tuple[int | None, int | None]] | None:
    """The order of dimensions, the channels, and the two sides; None where no channels are seen."""
    if len(edges) == 2 and edges[1] is not None and math.isqrt(edges[1]) ** 2 == edges[1]:
        side = math.isqrt(edges[1])
        return FLAT, 1, (side, side)
    if len(edges) != 4:
        return None
    for channels in (3, 1):
        if edges[1] == channels:
            return CHANNELS_FIRST, channels, (edges[2], edges[3])
        if edges[3] == channels:
            return CHANNELS_LAST, channels, (edges[1], edges[2])
    return None


def gray(images: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] -> [N, H, W, 1], of whole numbers rounded; what is gray already stays as it is."""
    found = images[..., :1] * np.float32(LUMA[0]) + images[..., 1:2] * np.float32(LUMA[1]) + images[..., 2:] * np.float32(LUMA[2])
    return np.rint(found).astype(np.uint8) if images.dtype == np.uint8 else found
