"""The benchmark's nets: their sizes, their shapes, and files that stand alone."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import distillctl.models.cifar
from distillctl.models.catalogue import CIFAR

FOLDER = Path(distillctl.models.cifar.__file__).parent

# at 100 classes, as the benchmark publishes them
PARAMETERS = {
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet20": 278_324,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "wrn_40_2": 2_255_156,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenetv2_x0_5": 812_836,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
}


def make(name: str, num_classes: int) -> nn.Module:
    return getattr(importlib.import_module(f"distillctl.models.cifar.{CIFAR[name]}"), name)(num_classes)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters_are_as_many_as_published(name, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make(name, 100).parameters()) == count


@pytest.mark.parametrize("name", CIFAR)
def test_small_images_of_several_sizes_are_classified(name):
    with torch.device("meta"):
        net = make(name, 10).eval()
        for size in (8, 28, 32, 64):
            assert net(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2_x0_5", "shufflenetv1", "shufflenetv2"])
def test_every_parameter_learns(name):
    net = make(name, 10)
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_vgg_ends_at_4x4_at_32_and_at_64_px():
    with torch.device("meta"):
        net = make("vgg8", 10)
        shapes = []
        net.stage5.register_forward_hook(lambda _module, _inputs, outputs: shapes.append(tuple(outputs.shape[-2:])))
        net(torch.zeros(1, 3, 32, 32))
        net(torch.zeros(1, 3, 64, 64))
    assert shapes == [(4, 4), (4, 4)]


@pytest.mark.parametrize("name", CIFAR)
def test_stages_and_classifier_can_be_tapped_by_name(name):
    with torch.device("meta"):
        parts = dict(make(name, 10).named_children())
    assert {"stage1", "stage2", "stage3", "pool", "classifier"} <= set(parts)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_file_needs_torch_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for module in imported:
            assert module.partition(".")[0] in {"torch", *sys.stdlib_module_names}
