"""Sums of products and of squares of features, whose gradients take one pass and lie in memory as the features do.

B batch, C and D channels, N = H x W positions. Where channels come last in memory, the gradients that torch makes of a plain product or of
mse_loss have them first, and everything behind them copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(one, other)
        return one @ other.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        one, other = ctx.saved_tensors
        first = lying_as(one, gradients[0], other) if ctx.needs_input_grad[0] else None
        second = lying_as(other, gradients[0].mT, one) if ctx.needs_input_grad[1] else None
        return first, second


class Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values @ values.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return lying_as(values, gradients[0] + gradients[0].mT, values)


def lying_as(values: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """one @ other, in the memory layout of `values`."""
    return (other.mT @ one.mT).mT if values.stride(-1) > values.stride(-2) else one @ other


class SquaredGap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        gap = one - other
        ctx.save_for_backward(gap)
        return gap.square().sum((0, 2, 3))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gap,) = ctx.saved_tensors
        gradient = gap * (2 * gradients[0][:, None, None])
        return (gradient if ctx.needs_input_grad[0] else None), (-gradient if ctx.needs_input_grad[1] else None)


def products(one: Tensor, other: Tensor) -> Tensor:
    """[B, C, N], [B, D, N] -> [B, C, D]: one @ otherᵀ."""
    return Products.apply(one, other)


def gram(values: Tensor) -> Tensor:
    """[..., C, N] -> [..., C, C]: values @ valuesᵀ, with one product on the way back instead of two."""
    return Gram.apply(values)


def squared_gap(one: Tensor, other: Tensor) -> Tensor:
    """[B, C, H, W] twice -> [C]: the squared difference, summed over samples and positions."""
    return SquaredGap.apply(one, other)
