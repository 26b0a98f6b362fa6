"""Features are found by short names and module paths, on nets of every kind, and come out as maps."""

import copy

import pytest
import torch
from torch import nn

from distillctl.config import ModelConfig
from distillctl.errors import ConfigError
from distillctl.models.adapter import Classifier
from distillctl.models.net import build_net, plan_net
from distillctl.models.taps import short_names, short_shapes, tap, tapped_shapes
from distillctl.models.trace import pixels

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tapped(name: str, *names: str, size: int = 32) -> Classifier:
    net = build_net(ModelConfig(name=name), 10, size).module
    return Classifier(net, *STATISTICS, taps=tap(net, names, pixels(size), "student")).eval()


def test_the_stages_of_a_residual_net_are_its_stages():
    answer = tapped("resnet8x4", "stage1", "stage2", "stage3", "last", "pooled")(torch.zeros(2, 3, 32, 32))
    shapes = {name: tuple(feature.shape[1:]) for name, feature in answer.features.items()}
    assert shapes == {"stage1": (64, 32, 32), "stage2": (128, 16, 16), "stage3": (256, 8, 8), "last": (256, 8, 8), "pooled": (256,)}


def test_what_the_classifier_sees_gives_the_logits():
    model = tapped("resnet8", "pooled")
    answer = model(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(model.net.classifier(answer.features["pooled"]), answer.logits)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", ["features.3", "features.6", "features.13", "features"]),
        ("convnext_atto", ["stages.0", "stages.1", "stages.2", "norm_pre"]),
        ("vit_tiny_patch16_224", ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]),
    ],
)
def test_a_stage_ends_where_its_resolution_does(name: str, places: list[str]):
    known = short_names(plan_net(ModelConfig(name=name), 10, 64).module, pixels(64))
    assert [known[f"stage{number}"].module for number in range(1, 5)] == places
    assert known["last"] == known["stage4"]


def test_maps_with_their_channels_last_come_out_with_their_channels_first():
    answer = tapped("swin_t", "stage1", size=64)(torch.zeros(1, 3, 64, 64))
    assert answer.features["stage1"].shape == (1, 96, 16, 16)


def test_a_module_is_tapped_by_its_path():
    assert tapped("resnet8", "stage2.0")(torch.zeros(1, 3, 32, 32)).features["stage2.0"].shape == (1, 32, 16, 16)


def test_a_tap_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"student: it has no tap 'stagee1'; did you mean stage1"):
        tapped("resnet8", "stagee1")


def test_a_copy_catches_for_itself():
    model = tapped("resnet8", "stage1")
    twin = copy.deepcopy(model)
    twin(torch.rand(1, 3, 32, 32))
    assert not model.taps.caught
    assert set(model(torch.rand(1, 3, 32, 32)).features) == {"stage1"}


def test_taps_add_nothing_to_what_ships():
    plain = build_net(ModelConfig(name="resnet8"), 10, 32).module
    assert tapped("resnet8", "stage1", "pooled").plain_state().keys() == plain.state_dict().keys()


def test_an_unknown_tap_names_the_command_that_lists_all():
    with pytest.raises(ConfigError, match=r"for all: distillctl models taps="):
        tapped("resnet8", "stagee1")


@pytest.mark.parametrize(("name", "size"), [("resnet8", 32), ("vit_tiny_patch16_224", 64), ("swin_t", 64)])
def test_the_listed_shapes_are_those_that_are_caught(name: str, size: int):
    net = plan_net(ModelConfig(name=name), 10, size).module
    listed = {tap: shape[1:] for tap, _, shape in short_shapes(net, pixels(size))}
    some = dict(tapped_shapes(plan_net(ModelConfig(name=name), 10, size).module, pixels(size))[:12:5])
    answer = tapped(name, *listed, *some, size=size)(torch.zeros(2, 3, size, size))
    assert {tap: tuple(answer.features[tap].shape[1:]) for tap in listed} == listed
    assert {tap: tuple(answer.features[tap].shape) for tap in some} == {tap: (2, *shape[1:]) for tap, shape in some.items()}


def test_stages_that_give_several_maps_at_once_are_passed_over():
    known = short_names(plan_net(ModelConfig(name="hrnet_w18_small"), 10, 64).module, pixels(64))
    assert [known[f"stage{number}"].module for number in (1, 2, 3)] == ["incre_modules.0", "incre_modules.1", "incre_modules.2"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_net_is_tapped_as_any_other(backend: str):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    taps = tap(net, ["1", "pooled"], pixels(8), "student")
    model = Classifier(net, *STATISTICS, taps=taps)
    images = torch.rand(2, 3, 8, 8)
    answers, gradients = [], []
    for _ in range(2):
        model.zero_grad()
        answer = model(images)
        sum(feature.square().sum() for feature in answer.features.values()).backward()
        answers.append(answer)
        gradients.append(net[0].weight.grad.clone())
        torch.compiler.reset()
        model.compile(backend=backend)
    plain, compiled = answers
    assert set(compiled.features) == {"1", "pooled"}
    for name, feature in plain.features.items():
        torch.testing.assert_close(compiled.features[name], feature)
    torch.testing.assert_close(compiled.logits, plain.logits)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert not taps.caught
