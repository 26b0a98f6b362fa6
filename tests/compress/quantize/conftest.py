"""Small nets that have learnt digits, and their files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_nets import Beside, Digits, Program, SmallResNet, SmallTransformer, export, seeded
from torch import nn


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.repeat((found.images / 16 * 255).round().astype(np.uint8)[..., None], 3, -1)
    targets = torch.from_numpy(found.target)
    return Digits(images[:1297], targets[:1297], images[1297:], targets[1297:])


@pytest.fixture(scope="session")
def resnet(digits: Digits) -> nn.Module:
    return seeded(SmallResNet, digits)


@pytest.fixture(scope="session")
def resnet_file(resnet: nn.Module, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("resnet") / "student.onnx"
    return export(Program(resnet), torch.from_numpy(digits.train[:2]), "image", file)


@pytest.fixture(scope="session")
def transformer_file(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = seeded(SmallTransformer, digits)
    file = tmp_path_factory.mktemp("transformer") / "student.onnx"
    return export(Beside(net), digits.pixels(digits.train[:2]), "pixels", file)


@pytest.fixture(scope="session")
def ranges(resnet_file: Path, digits: Digits):
    from distillctl.compress.quantize.graph import read
    from distillctl.compress.quantize.ranges import calibrate
    from distillctl.compress.quantize.samples import calibrating

    return calibrate(read(resnet_file), calibrating(digits.train, 256)[0])
