"""Mix each image of a batch with a partner's: mixup and cutmix, with the coefficient of each sample drawn from counters.

B batch, H x W the image, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillctl import draws

_WHOLE_BITS = 16
_WHOLE = 2**_WHOLE_BITS  # mixup's coefficients are multiples of 1 / _WHOLE


def paired(n: int, seed: int, view: int) -> Tensor:
    """int64 [n], each sample's partner: neighbours in the view's permutation. With an odd n the last one there is its own."""
    order = draws.permutation(n, seed, "partners", view)
    even = n - n % 2
    partner = torch.arange(n)
    partner[order[0:even:2]] = order[1:even:2]
    partner[order[1:even:2]] = order[0:even:2]
    return partner


def blended(images: Tensor, partners: Tensor, alpha: float, seed: int, view: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): share x image + (1 - share) x partner, rounded; share drawn from Beta(alpha, alpha).

    Returns uint8 [B, C, H, W] and the share, float64 [B].
    """
    weight = (draws.beta(alpha, seed, "mixup", view, index) * _WHOLE).round().int()
    own = weight[:, None, None, None]
    # cast first, then in place: four times as fast as products of uint8 and int32
    mixed = images.int().mul_(own).add_(partners.int().mul_(_WHOLE - own)).add_(_WHOLE // 2) >> _WHOLE_BITS
    return mixed.byte(), weight.double() / _WHOLE


def pasted(images: Tensor, partners: Tensor, alpha: float, seed: int, view: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Cutmix (Yun et al. 2019): a box of the partner over the image, of area 1 - share before the image's edges cut it off.

    Returns uint8 [B, C, H, W] and the share of pixels that are the image's own, float64 [B].
    """
    height, width = images.shape[2:]
    half = (1 - draws.beta(alpha, seed, "cutmix", view, index)).sqrt() * 0.5
    top, bottom = _span(half, height, draws.integers(height, seed, "cutmix row", view, index))
    left, right = _span(half, width, draws.integers(width, seed, "cutmix column", view, index))
    row, column = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    area = ((bottom - top) * (right - left)).view(-1)
    # `partners.where(inside, images)`, in bits: many times as fast on a CPU
    mixed = images ^ ((images ^ partners) & inside.byte().neg_())
    return mixed, (height * width - area).double() / (height * width)


def shared_targets(targets: Tensor, partner_targets: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """Class probabilities float32 [B, K]: `share` (float64 [B]) for the own class, the rest for the partner's; both int64 [B].

    NaN where one of the two has no label: a loss that reads it by mistake is not finite, and training ends there.
    """
    blank = share.new_zeros(len(share), num_classes)
    own = blank.scatter(1, targets.clamp(min=0)[:, None], share[:, None])
    mixed = own + blank.scatter(1, partner_targets.clamp(min=0)[:, None], 1 - share[:, None])
    return mixed.masked_fill(((targets < 0) | (partner_targets < 0))[:, None], torch.nan).float()


def _span(half: Tensor, extent: int, centre: Tensor) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last, int64 [B, 1, 1, 1]."""
    reach = (half * extent).long()
    return (centre - reach).clamp(min=0)[:, None, None, None], (centre + reach).clamp(max=extent)[:, None, None, None]
