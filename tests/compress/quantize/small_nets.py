"""Small nets that have learnt digits, and their files."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEMPERATURE = 1.5


class SmallResNet(nn.Module):
    """Two convolutions beside a shortcut, as residual nets have them."""

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, eps=eps)
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16, eps=eps)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False), nn.BatchNorm2d(16, eps=eps)
        self.relu, self.head = nn.ReLU(), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        first = self.relu(self.bn0(self.conv0(images)))
        second = self.relu(first + self.bn1(self.conv1(first)))
        return self.head(self.relu(self.bn2(self.conv2(second))).mean((2, 3)))


class SmallTransformer(nn.Module):
    """Patches, one block of attention and MLP, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 2, stride=2)
        self.norm1, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm2, self.mlp1, self.mlp2 = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
        tokens = tokens + self.out((query @ key.transpose(1, 2) / 32**0.5).softmax(-1) @ value)
        tokens = tokens + self.mlp2(nn.functional.gelu(self.mlp1(self.norm2(tokens))))
        return self.head(tokens.mean(1))


class Program(nn.Module):
    """uint8 [N, H, W, 3] of any size, resized by products of matrices that its size decides -> probabilities and logits."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def prepare(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float()
        pixels = nn.functional.interpolate(pixels, (8, 8), mode="bilinear", align_corners=False).round()
        return (pixels / 255 - 0.5) / 0.25

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(self.prepare(image))
        return (logits / TEMPERATURE).softmax(1), logits


class Beside(Program):
    """The same of pixels that are ready."""

    def prepare(self, image: Tensor) -> Tensor:
        return image


class Digits(NamedTuple):
    train: np.ndarray  # uint8 [N, 8, 8, 3]
    train_targets: Tensor
    val: np.ndarray
    val_targets: Tensor

    def pixels(self, images: np.ndarray) -> Tensor:
        return Program(nn.Identity()).prepare(torch.from_numpy(images))


def trained(net: nn.Module, digits: Digits, epochs: int = 4) -> nn.Module:
    pixels = digits.pixels(digits.train)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for start in range(0, len(pixels) - 63, 64):
            loss = nn.functional.cross_entropy(net(pixels[start : start + 64]), digits.train_targets[start : start + 64])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def export(program: nn.Module, example: Tensor, name: str, file: Path) -> Path:
    import onnx

    free = dict.fromkeys((0, 1, 2) if name == "image" else (0,), torch.export.Dim.DYNAMIC)
    made = torch.onnx.export(
        program.eval(), (example,), dynamo=True, external_data=False, opset_version=20, dynamic_shapes=(free,),
        input_names=[name], output_names=["probabilities", "logits"], verbose=False,
    )  # fmt: skip
    model = made.model_proto
    model.metadata_props.add(key="distillctl", value=json.dumps({"classes": list("0123456789"), "exported": {"precision": "fp32"}}))
    onnx.save(model, file)
    return file


def seeded(make, digits: Digits) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(make(), digits)
