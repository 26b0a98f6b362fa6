"""Find the worst small change of images: projected gradient ascent in the maximum norm.

B batch, H x W the image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillctl import draws
from distillctl.config import AttackConfig
from distillctl.modes import evaluating
from distillctl.types import Batch

_DRAWS_PER_WORD = 4  # of 16 bits each: fine enough for where to start, and a quarter of the work


@dataclass(frozen=True)
class Pgd:
    """Madry et al. 2018, section 2.1: `steps` times along the sign of the gradient, each time back into the ball of radius `eps`.

    eps, step: of images in [0, 1]. The start is drawn uniformly from the ball, by (seed, view, index) alone.
    """

    eps: float
    step: float
    steps: int
    random_start: bool = True
    seed: int = 0

    @classmethod
    def for_training(cls, config: AttackConfig, seed: int) -> Pgd:
        return cls(config.eps, config.step, config.steps, config.random_start, seed)

    @classmethod
    def for_measuring(cls, config: AttackConfig, seed: int) -> Pgd:
        return cls(config.eps, config.step, config.eval_steps, config.random_start, seed)

    def draws(self, batch: Batch) -> Tensor | None:
        """Where each value starts within its range, float32 [B, 3, H, W] in [-1, 1); None where all start at the image itself."""
        return starts(batch.index, batch.view, pixels_of(batch).shape, self.seed) if self.random_start else None

    def perturb(self, model: nn.Module, images: Tensor, objective: Callable[[Tensor], Tensor], draws: Tensor | None) -> Tensor:
        """Images float32 [B, 3, H, W] near the given ones (uint8, or float in [0, 1]) at which `objective` of the logits [B, K] is large.

        `objective` is a sum or mean over the samples, to be ascended. No value leaves [0, 1] or differs by more than eps, to the last bit.
        The model answers in eval mode and gets its own back; no gradient reaches its parameters.
        """
        clean = in_unit_range(images)
        low, high = ball(clean, self.eps)
        changed = clean if draws is None else torch.clamp(clean + self.eps * draws, low, high)
        with evaluating(model):
            for _ in range(self.steps):
                changed = torch.clamp(changed + self.step * ascent(model, changed, objective).sign(), low, high)
        return changed


def pixels_of(batch: Batch) -> Tensor:
    """The images of a batch, [B, 3, H, W]: of nothing else is there a small change."""
    assert isinstance(batch.inputs, Tensor)
    return batch.inputs


def ascent(model: nn.Module, images: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """A gradient [B, 3, H, W] in whose direction the objective grows, of another length for each sample.

    The objective's gradient by the logits is taken in float64 and brought to length one in each sample before it goes back through the net:
    only its direction counts here, and that of a sample which is answered with confidence would underflow, in fp16 long before fp32.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images).logits
        with torch.autocast(logits.device.type, enabled=False):
            scores = logits.detach().double().requires_grad_()
            [slope] = torch.autograd.grad(objective(scores), scores)
        size = slope.abs().amax(1, keepdim=True)
        [gradient] = torch.autograd.grad(logits, images, torch.where(size > 0, slope / size, slope).to(logits.dtype))
    return gradient


def in_unit_range(images: Tensor) -> Tensor:
    """float32 in [0, 1] of images as they are stored: uint8, or float in [0, 1] already."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def ball(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The least and the largest value that each pixel may take: float32 [B, 3, H, W], within [0, 1], no further than eps from the image.

    A sum is rounded to the nearest float32, which may be too far, so that each bound goes one number towards the image.
    """
    radius = largest_float32(eps)
    low = torch.nextafter(images - radius, torch.ones_like(images))
    high = torch.nextafter(images + radius, torch.zeros_like(images))
    return torch.minimum(low.clamp(min=0), images), torch.maximum(high.clamp(max=1), images)


def largest_float32(number: float) -> float:
    """The largest float32 that is not above a positive number."""
    rounded = torch.tensor(number, dtype=torch.float32)
    return float(rounded if rounded.item() <= number else torch.nextafter(rounded, torch.zeros(())))


def starts(index: Tensor, view: int, shape: torch.Size, seed: int) -> Tensor:
    """Uniform draws, float32 [B, *] in [-1, 1), of samples `index` (int64 [B]): multiples of 2^-15."""
    count = math.prod(shape[1:])
    words = torch.arange(-(-count // _DRAWS_PER_WORD), device=index.device)
    drawn = draws.bits(seed, "attack", view, index[:, None], words).view(torch.int16)
    return (drawn[:, :count].float() * 2.0**-15).view(shape)
