"""Features are found by short names and module paths, on nets of every kind, and come out as maps."""

import copy

import pytest
import torch

from distillctl.config import ModelConfig
from distillctl.errors import ConfigError
from distillctl.models.adapter import Classifier
from distillctl.models.build import build_net, plan_net
from distillctl.models.taps import short_names, tap

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tapped(name: str, *names: str, size: int = 32) -> Classifier:
    net = build_net(ModelConfig(name=name), 10, size).module
    return Classifier(net, *STATISTICS, taps=tap(net, names, size, "student")).eval()


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
    known = short_names(plan_net(ModelConfig(name=name), 10, 64).module, 64)
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
