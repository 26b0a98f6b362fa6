"""Make a net answer for inputs as they are stored: images of [0, 255] or [0, 1] in, `Output` out, normalisation inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.models import lora
from distillctl.models.logits import logits_of
from distillctl.models.taps import Taps
from distillctl.models.text import virtual
from distillctl.types import Inputs, Output

TOKEN = "token"  # the feature that is a distillation head's logits [B, K]


class Adapter(nn.Module):
    """A net that takes inputs as data sets have them and answers with an `Output`. Only `net` has state: what ships is `plain_state()`."""

    classes: tuple[str, ...] = ()  # their names, of a shipped model that is read from Python
    outputs: int | None = None  # how many classes it has to answer with, where that is known

    def __init__(self, net: nn.Module, taps: Taps | None = None):
        super().__init__()
        self.net, self.taps = net, taps
        self.still: tuple[str, ...] = ()  # modules of the net that are frozen, and stay in eval mode

    def forward(self, inputs: Inputs) -> Output:
        answer = self.net(self.prepare(inputs))
        features = self.taps.collect() if self.taps is not None else {}
        if getattr(self.net, "distilled_training", False) and self.training:
            logits, features[TOKEN] = answer
            return Output(logits, features)
        return Output(logits_of(answer, self.outputs), features)

    def prepare(self, inputs: Any) -> Any:
        """What the net is given; here the inputs as they are."""
        return inputs

    def settings(self) -> Any:
        """What its answers depend on, as JSON, besides its code and what it has as parameters and buffers."""
        return None

    def plain_state(self) -> dict[str, Tensor]:
        """The state dict of the net alone, under its own names."""
        return virtual.plain_state(self.net, lora.plain_state(self.net))

    def train(self, mode: bool = True) -> Adapter:
        super().train(mode)
        for name in self.still:
            self.net.get_submodule(name).eval()
        return self


class Classifier(Adapter):
    """Of images: uint8, or float in [0, 1], [B, 3, H, W].

    mean, std: of the three channels of images in [0, 1]. resolution: what the net sees; images of another size are resized.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], resolution: int | None = None, taps: Taps | None = None
    ):
        super().__init__(net, taps)
        assert len(mean) == len(std) == 3, f"mean {mean}, std {std}"
        self.resolution = resolution
        # not persistent: they are part of the preprocessing that student.json records, not of the weights
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.channels_last = is_channels_last(net)

    def prepare(self, inputs: Tensor) -> Tensor:
        """What the net sees: normalised, resized, in its memory layout. float32 [B, 3, H, W]."""
        assert inputs.shape[1:2] == (3,), f"images are [B, 3, H, W], not {tuple(inputs.shape)}"
        # under bf16 the half step between two gray values would be lost, so this stays fp32 whatever the net computes in
        scale = 1 / self.std.float()
        shift = -self.mean.float() * scale
        if inputs.dtype == torch.uint8:
            scale = scale / 255
        images = torch.addcmul(shift, inputs.float(), scale)
        if self.resolution is not None and images.shape[-2:] != (self.resolution, self.resolution):
            # after normalising, so uint8 is not rounded; both are linear and commute
            images = F.interpolate(images, (self.resolution, self.resolution), mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def settings(self) -> Any:
        return self.resolution

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Classifier:
        # every .to(...) of the module or of what holds it comes through here
        super()._apply(fn, recurse)
        self.channels_last = is_channels_last(self.net)
        return self


def is_channels_last(net: nn.Module) -> bool:
    """Whether a kernel of the net lies so; 1x1 and depthwise kernels lie both ways and do not tell."""
    return any(
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in net.parameters()
    )
