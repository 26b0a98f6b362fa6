"""What tests of formats share: tiny nets, their programs, and how a file is held against the program that it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillctl.formats import format_of
from distillctl.formats.format import Form
from distillctl.formats.program import Preprocess, Program

SIZE, CLASSES = 16, 5
MEAN, STD = (0.48, 0.46, 0.41), (0.23, 0.22, 0.24)
METADATA = {"distillctl": json.dumps({"classes": ["a", "b", "c", "d", "e"]}), "other": "1"}


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, groups=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    )
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


class Attention(nn.Module):
    """Patches, one layer of attention, the mean of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm, self.qkv, self.head = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(self.norm(tokens)).reshape(images.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head((tokens + seen.transpose(1, 2).flatten(2)).mean(1))


NETS = {"convolutional": convolutional, "attention": lambda: Attention().eval()}


def program(net: nn.Module, preprocess: str = "inside", fixed: bool = False, resize: int = SIZE + 2, temperature: float = 1.7) -> Program:
    before = Preprocess(SIZE, resize, MEAN, STD, fixed=fixed) if preprocess == "inside" else None
    return Program(net, before, temperature).eval()


def samples(count: int, preprocess: str = "inside", size: tuple[int, int] = (SIZE + 5, SIZE + 9), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if preprocess == "inside":
        return torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=generator)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator)


def written(
    name: str, folder: Path, net: nn.Module | None = None, form: Form | None = None, metadata: Mapping[str, str] = METADATA
) -> Path:
    """A file of a format, of a program as the format can hold it."""
    found, form = format_of(name), form or Form()
    file = folder / f"student{found.suffix}"
    made = program(net if net is not None else convolutional(), form.preprocess, fixed=not found.flexible)
    example = samples(2 if found.batch else 1, form.preprocess, (SIZE + 5, SIZE + 9) if found.flexible else (SIZE, SIZE))
    found.write(made, example, file, form, metadata)
    return file


def error_of(runner: Any, made: Program, inputs: Tensor) -> float:
    """The largest difference of a logit."""
    with torch.no_grad():
        wanted = made(inputs)[1].numpy()
    found = runner(inputs.numpy())
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return float(np.abs(found - wanted).max())
