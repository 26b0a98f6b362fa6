"""The three values that travel through the tool."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What a loader yields.

    inputs:  uint8 [B, 3, H, W]; models bring them to [0, 1] and normalise by their own statistics
    targets: int64 [B], or float [B, K] where samples are mixed
    index:   int64 [B], names each sample within its data set
    view:    which augmentation of the samples this is: equal (index, view) means equal inputs
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    view: int


class Output(NamedTuple):
    """What a model answers: logits [B, K] and tapped features by name.

    members: the answers of several teachers, where each is a lesson of its own and `logits` are only their mean
    """

    logits: Tensor
    features: dict[str, Tensor]
    members: tuple[Output, ...] = ()


class Terms(NamedTuple):
    """A scalar loss and the named, weighted parts that it is the sum of."""

    loss: Tensor
    parts: dict[str, Tensor]
