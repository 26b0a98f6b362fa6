"""A small net of random weights as an ONNX file of the form that `distillctl export` writes, and what PyTorch answers for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from distillctl.data.image.upright import middle, upright
from distillctl.formats import format_of
from distillctl.formats.format import Form
from distillctl.formats.program import Preprocess, Program
from distillctl.metrics.cost import parameters
from distillctl.models.record import Architecture, Exported, Record
from distillctl.models.shipping import METADATA

MEAN, STD, TEMPERATURE = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 1.5

CLASSES = ("<script>alert(1)</script>", "traffic_light", "zwei\nZeilen", "猫", *(f"class {n}" for n in range(6)))


class Stub(NamedTuple):
    """An exported file, the net in it, and what its outputs are called."""

    file: Path
    net: nn.Module
    classes: tuple[str, ...]
    size: int = 32
    resize: int = 36


def small_net(classes: int, seed: int = 0) -> nn.Module:
    """Answers of colour and shape that are far from even, so that a wrong pixel shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (nn.Conv2d(3, 12, 5, 2), nn.Tanh(), nn.Conv2d(12, 24, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        net = nn.Sequential(*layers, nn.Linear(24 * 9, classes))
        net[-1].weight.data *= 8
        return net.eval()


def record_of(classes: tuple[str, ...], size: int, resize: int) -> Record:
    seen = {"image_size": size, "resize": resize, "mean": list(MEAN), "std": list(STD)}
    return Record(Architecture("cifar", "resnet8", "small", {}, (), size), classes, seen)


def write_stub(file: Path, classes: tuple[str, ...], size: int = 32, resize: int = 36, inside: bool = True) -> nn.Module:
    """The file, and the net that is in it."""
    net = small_net(len(classes))
    before = Preprocess(size, resize, MEAN, STD) if inside else None
    example = torch.zeros(2, 40, 50, 3, dtype=torch.uint8) if inside else torch.zeros(2, 3, size, size)
    form = Form("inside" if inside else "beside")
    about = Exported("onnx", form.preprocess, form.precision, parameters(net), None)
    record = replace(record_of(classes, size, resize), temperature=TEMPERATURE, exported=about)
    metadata = {METADATA: json.dumps(record.essence(), sort_keys=True)}
    format_of("onnx").write(Program(net, before, TEMPERATURE).eval(), example, file, form, metadata)
    return net


@torch.no_grad()
def eager(net: nn.Module, image: Image.Image, size: int = 32, resize: int = 36) -> np.ndarray:
    """What PyTorch and Pillow answer: probabilities [K]."""
    pixels = torch.from_numpy(np.array(middle(upright(image), size, resize))).permute(2, 0, 1).float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return (net(pixels[None]) / TEMPERATURE).softmax(1)[0].numpy()
