"""A net that turns noise into images, for distillation without data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillctl.draws import uniform

WIDTH = 64  # channels of the last block; the first ones have twice as many


class Generator(nn.Module):
    """The DCGAN-like net of Chen et al. 2019 (DAFL) and Fang et al. 2021 (CMI): a linear layer to maps of a quarter of the size, two blocks
    that double it, and a sigmoid.

    z [B, latent] -> images in [0, 1], float [B, 3, S, S], S any size.
    """

    def __init__(self, latent: int, image_size: int, width: int = WIDTH):
        super().__init__()
        half = (image_size + 1) // 2
        start = (half + 1) // 2
        self.net = nn.Sequential(
            nn.Linear(latent, 2 * width * start**2),
            nn.Unflatten(1, (2 * width, start, start)),
            nn.BatchNorm2d(2 * width),
            *upsampled(half, 2 * width, 2 * width),
            *upsampled(image_size, 2 * width, width),
            nn.Conv2d(width, 3, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.net(latents)


def upsampled(size: int, channels_in: int, channels: int) -> tuple[nn.Module, ...]:
    """[B, C_in, S', S'] -> [B, C, size, size]."""
    return (
        nn.Upsample(size),
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(0.2),
    )


def normal(count: int, seed: int, stream: str, index: Tensor, view: int) -> Tensor:
    """float32 draws [B, count] from N(0, 1) for samples `index` [B] in their view: rank, batch and moment do not matter."""
    drawn = uniform(seed, stream, view, index[:, None], torch.arange(count, device=index.device))
    return torch.special.ndtri(drawn.clamp_min(2.0**-54)).float()  # at 0 it is infinite
