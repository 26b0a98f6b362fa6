"""A small net of random weights as an ONNX file of the form that `distillctl export` writes, and what PyTorch answers for it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from distillctl.data.image.upright import middle, upright
from distillctl.models.record import Architecture, Record

MEAN, STD, TEMPERATURE = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 1.5

CLASSES = ("<script>alert(1)</script>", "traffic_light", "zwei\nZeilen", "猫", *(f"class {n}" for n in range(6)))


class Stub(NamedTuple):
    """An exported file, the net in it, and what its outputs are called."""

    file: Path
    net: nn.Module
    classes: tuple[str, ...]
    size: int = 32
    resize: int = 36


class Middle(nn.Module):
    """uint8 [N, H, W, 3] to whole numbers as float [N, 3, size, size]: `data/image/upright.py: middle` as products of matrices."""

    def __init__(self, size: int, resize: int):
        super().__init__()
        self.size, self.resize = size, resize

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float()
        height, width = image.shape[1], image.shape[2]
        short = torch.scalar_tensor(torch.sym_min(height, width), dtype=torch.int64)
        side = torch.where(short > self.size, short * self.size, short * self.resize)
        across, down = self.filter(width, side), self.filter(height, side)
        return rounded(down @ rounded(pixels @ across.transpose(0, 1)))

    def filter(self, edge: int, side: Tensor) -> Tensor:
        start = (edge * self.resize - side) // (2 * self.resize)
        scale = side.double() / (self.resize * self.size)
        centers = start.double() + (torch.arange(self.size, dtype=torch.float64) + 0.5) * scale
        found = torch.arange(edge, dtype=torch.float64)[None] + 0.5 - centers[:, None]
        found = (1 - (found / scale.clamp(min=1)).abs()).clamp(min=0)
        return (found / found.sum(1, keepdim=True)).float()


def rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)


class Program(nn.Module):
    def __init__(self, net: nn.Module, inside: bool, size: int, resize: int):
        super().__init__()
        self.net, self.inside, self.middle = net, inside, Middle(size, resize)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (self.middle(given) / 255 - self.mean) / self.std if self.inside else given
        logits = self.net(pixels)
        return (logits / TEMPERATURE).softmax(1), logits


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
    import onnx

    net = small_net(len(classes))
    example = torch.zeros(2, 40, 50, 3, dtype=torch.uint8) if inside else torch.zeros(2, 3, size, size)
    n, h, w = torch.export.Dim("N"), torch.export.Dim("H", min=2), torch.export.Dim("W", min=2)
    exported = torch.onnx.export(
        Program(net, inside, size, resize).eval(),
        (example,),
        input_names=["image" if inside else "pixels"],
        output_names=["probabilities", "logits"],
        dynamic_shapes=({0: n, 1: h, 2: w} if inside else {0: n},),
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    export = {"format": "onnx", "preprocess": "inside" if inside else "beside", "precision": "fp32", "opset": 20}
    told = {**record_of(classes, size, resize).essence(), "temperature": TEMPERATURE, "export": export}
    entry = model.metadata_props.add()
    entry.key, entry.value = "distillctl", json.dumps(told, sort_keys=True)
    onnx.save(model, file)
    return net


@torch.no_grad()
def eager(net: nn.Module, image: Image.Image, size: int = 32, resize: int = 36) -> np.ndarray:
    """What PyTorch and Pillow answer: probabilities [K]."""
    pixels = torch.from_numpy(np.array(middle(upright(image), size, resize))).permute(2, 0, 1).float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return (net(pixels[None]) / TEMPERATURE).softmax(1)[0].numpy()
