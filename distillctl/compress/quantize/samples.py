"""Samples for an ONNX file in the form its input takes, and what has to hold of those that calibrate it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Union

import numpy as np

from distillctl.errors import DataError

# [N, ...] in one array, or batches [n, ...] of any n, which may differ in size where the file takes images of any
Samples = Union[np.ndarray, Sequence[np.ndarray]]
BATCH = 16  # samples at a time: calibration keeps the values of all tensors of a batch


def batches(samples: Samples, size: int = BATCH) -> Iterator[np.ndarray]:
    """[n, ...] each, n at most `size`."""
    for part in [samples] if isinstance(samples, np.ndarray) else samples:
        for start in range(0, len(part), size):
            yield np.ascontiguousarray(part[start : start + size])


def first(samples: Samples) -> np.ndarray:
    """[1, ...], the first of them."""
    return next(batches(samples, 1))


def calibrating(samples: Samples, wanted: int) -> tuple[list[np.ndarray], str | None]:
    """The first `wanted` of the samples in batches, and the sentence to say where there are fewer.

    Raises DataError where there are none, or where one is not finite.
    """
    chosen: list[np.ndarray] = []
    total = 0
    for batch in batches(samples):
        batch = batch[: wanted - total]
        if not len(batch):
            break
        check_finite(batch, total)
        chosen.append(batch)
        total += len(batch)
    if not total:
        raise DataError(f"quantize.samples={wanted}: there is no image to calibrate with; they are taken from the training images")
    return chosen, f"calibrated on {total} images, all there are, where quantize.samples={wanted}" if total < wanted else None


def check_finite(batch: np.ndarray, before: int) -> None:
    if batch.dtype.kind != "f":
        return
    wrong = ~np.isfinite(batch).reshape(len(batch), -1).all(1)
    if wrong.any():
        raise DataError(f"calibration sample {before + int(wrong.argmax())} holds NaN or infinity: ranges cannot be taken from it")
