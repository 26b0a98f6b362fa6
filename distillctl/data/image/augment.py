"""Make augmented views: uint8 images that are a pure function of (view seed, view number, sample index).

The batch, its order, the worker and the moment never matter, so a view can be made again, and an answer to it be kept.
B batch, H x W the image as given, S the side of a view, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distillctl import draws
from distillctl.config import AugmentConfig
from distillctl.data.image import crops, mixing, policies

# They go up whenever equal (seed, view, index) come to mean other bytes, of images in memory or from files; kept answers are for one scheme only.
VIEW_SCHEME, FILE_SCHEME = 1, 2

_CROP_AREA, _CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_PIECE_BYTES = 2**20  # more images than this at once leave a core's cache: twice as slow at 224 pixels
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (1 / 3.3, 1 / 0.3)  # of width to height


class Augment:
    """Crop, flip, policy, erasing, in this order; then, of two views, a mixture."""

    def __init__(self, config: AugmentConfig, image_size: int, num_classes: int, seed: int):
        self.config, self.image_size, self.num_classes, self.seed = config, image_size, num_classes, seed
        self.pad = image_size // 8 if config.pad is None else config.pad
        self.mixes = config.mixup > 0 or config.cutmix > 0
        self._last_partners: tuple[tuple[int, int], Tensor] | None = None

    def views(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        """uint8 [B, 3, H, W] of the samples `index` (int64 [B], same device) -> uint8 [B, 3, S, S]."""
        return self._in_pieces(self._view, images, index, view)

    @property
    def cuts_files(self) -> bool:
        """Whether views are cut out of images as their files have them. Else they are made of the S x S images that memory would hold."""
        return self.config.crop == "resized"

    def crop_box(self, height: int, width: int, index: int, view: int) -> tuple[int, int, int, int]:
        """Of `resized`: what to cut out of an image of any size, and then to scale to S x S: (top, left, height, width), inside the image.

        The box is the one that `views` takes of an image of that size.
        """
        top, left, tall, wide = self._boxes(height, width, torch.tensor([index]), view)[:, 0].tolist()
        return top, left, tall, wide

    def after_decoding(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        """What a view still lacks when it was cut out of its file: flip, policy, erasing; uint8 [B, 3, S, S]."""
        return self._in_pieces(self._flipped_and_repainted, images, index, view)

    def partners(self, n: int, view: int) -> Tensor:
        """int64 [n]: whom each of n samples is mixed with in this view (of an odd number, one with itself)."""
        if self._last_partners is None or self._last_partners[0] != (n, view):
            self._last_partners = (n, view), mixing.paired(n, self.seed, view)
        return self._last_partners[1].clone()

    def mix(
        self, images: Tensor, partner_images: Tensor, targets: Tensor, partner_targets: Tensor, index: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        """Views and their partners' views, uint8 [B, 3, S, S], to mixtures of both and float32 [B, K] class probabilities.

        Each sample draws its own coefficient and, where mixup and cutmix are both on, which of the two it gets (one half each).
        """
        assert self.mixes
        drawn = []
        if self.config.mixup > 0:
            drawn.append(mixing.blended(images, partner_images, self.config.mixup, self.seed, view, index))
        if self.config.cutmix > 0:
            drawn.append(mixing.pasted(images, partner_images, self.config.cutmix, self.seed, view, index))
        mixed, share = drawn[0]
        if len(drawn) == 2:
            second = draws.integers(2, self.seed, "mixture", view, index) == 1
            pasted, its_share = drawn[1]
            chosen = (mixed ^ pasted) & second[:, None, None, None].byte().neg_()  # `where` in bits, many times as fast on a CPU
            mixed, share = mixed ^ chosen, its_share.where(second, share)
        return mixed, mixing.shared_targets(targets, partner_targets, share, self.num_classes)

    def _in_pieces(self, change: Callable[[Tensor, Tensor, int], Tensor], images: Tensor, index: Tensor, view: int) -> Tensor:
        assert images.dtype == torch.uint8, images.dtype
        if images.device.type != "cpu" or images.numel() <= _PIECE_BYTES:
            return change(images, index, view)
        size = max(1, _PIECE_BYTES // images[0].numel())
        pieces = [slice(start, start + size) for start in range(0, len(images), size)]
        return torch.cat([change(images[piece], index[piece], view) for piece in pieces])

    def _view(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        if self.config.crop == "none":
            assert images.shape[2:] == (self.image_size, self.image_size), (images.shape, self.image_size)
            return self._flipped_and_repainted(images, index, view)
        height, width = images.shape[2:]
        mirror = self._mirror(index, view)  # as part of the crop it costs nothing
        if self.config.crop == "resized":
            cropped = crops.resampled(images, self._boxes(height, width, index, view), mirror, self.image_size)
        else:
            more = 2 * self.pad - self.image_size
            assert min(height, width) + more >= 0, (images.shape, self.image_size, self.pad)
            top, left = self._corners(torch.tensor([[height + more + 1], [width + more + 1]], device=index.device), index, view)
            cropped = crops.shifted(images, top, left, mirror, self.image_size, self.pad)
        return self._repainted(cropped, index, view)

    def _flipped_and_repainted(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        mirrored = crops.mirrored(images, self._mirror(index, view)) if self.config.flip > 0 else images
        return self._repainted(mirrored, index, view)

    def _corners(self, room: Tensor, index: Tensor, view: int) -> Tensor:
        """int64 [2, B]: (top, left) below `room` (int64 [2, 1])."""
        return draws.integers(room, self.seed, "shift", view, index, torch.arange(2, device=index.device)[:, None])

    def _mirror(self, index: Tensor, view: int) -> Tensor:
        """bool [B]"""
        return draws.uniform(self.seed, "flip", view, index) < self.config.flip

    def _boxes(self, height: int, width: int, index: Tensor, view: int) -> Tensor:
        """int64 [4, B]: random resized crops (top, left, height, width), a central one where no drawn one fits: as torchvision."""
        boxes, found = crops.drawn_boxes(height, width, _CROP_AREA, _CROP_RATIO, self.seed, "crop", view, index)
        central = torch.tensor(crops.central_box(height, width, _CROP_RATIO), device=index.device)
        return boxes.where(found, central[:, None])

    def _repainted(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        """Policy and erasing."""
        if self.config.policy == "randaugment":
            images = policies.randaugment(images, self.seed, view, index, self.config.num_ops, self.config.magnitude)
        elif self.config.policy == "trivialaugment":
            images = policies.trivialaugment(images, self.seed, view, index)
        return self._erased(images, index, view) if self.config.erasing > 0 else images

    def _erased(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        """Random erasing (Zhong et al. 2020): a black box, with the given probability."""
        height, width = images.shape[2:]
        boxes, found = crops.drawn_boxes(height, width, _ERASED_AREA, _ERASED_RATIO, self.seed, "erasing", view, index)
        top, left, tall, wide = boxes[:, :, None, None, None]
        wanted = found & (draws.uniform(self.seed, "erasing", view, index) < self.config.erasing)
        row, column = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
        inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)
        return images * ~(inside & wanted[:, None, None, None])  # `masked_fill` takes fifty times as long on a CPU
