"""The stem for small images: what it leaves, and that it can be done again."""

import json

import pytest
import torch
from torch import nn

from distillctl.config import ModelConfig
from distillctl.errors import ConfigError
from distillctl.models.edits import apply_edits
from distillctl.models.net import build_net, plan_net, rebuild
from distillctl.models.stem import small_stem
from distillctl.models.trace import pixels, trace

CONVOLUTIONAL = [
    *("resnet18", "resnet152", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf", "densenet121", "shufflenet_v2_x0_5"),
    *("convnext_tiny", "mobilenet_v3_small", "vgg11", "googlenet", "squeezenet1_1"),
    *("timm:resnet18", "timm:resnet50d", "timm:mobilenetv3_small_100", "timm:convnext_atto", "timm:efficientnet_b0"),
    *("timm:tf_efficientnet_b0", "timm:resnetblur50", "timm:resnetv2_50x1_bit", "timm:repvgg_a0"),
]


def config(name: str, **given) -> ModelConfig:
    source, _, plain = name.rpartition(":")
    return ModelConfig(name=plain, source=source or "auto", **given)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_net_keeps_a_map_of_4x4_at_32_px(name):
    net = plan_net(config(name), 10, 32)
    calls, problem = trace(net.module, pixels(32))
    assert problem is None
    assert net.stem == "small"
    assert net.edits
    maps = [call.outputs for call in calls if len(call.outputs) == 4 and call.outputs[1] > 8 and call.outputs[-1] > 1]
    assert min(maps[-1][-2:]) >= 4


def test_a_residual_net_gets_the_classical_stem():
    net = plan_net(config("resnet18"), 10, 32)
    assert net.edits == (("conv1", "3x3, stride 1"), ("maxpool", "identity"))
    assert net.module.conv1.weight.shape == (64, 3, 3, 3)


def test_parallel_branches_change_together():
    edited = {name for name, _ in plan_net(config("regnet_y_400mf"), 10, 32).edits}
    assert edited == {"stem.0", "trunk_output.block1.block1-0.proj.0", "trunk_output.block1.block1-0.f.b.0"}


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny", "timm:convnext_atto"])
def test_trained_kernels_stay_where_they_are_wanted(name):
    large = plan_net(config(name, stem="large"), 10, 32).module
    shapes = {entry: tensor.shape for entry, tensor in large.state_dict().items()}
    edits = small_stem(large, 32, keep_kernels=True)
    assert edits
    assert shapes == {entry: tensor.shape for entry, tensor in large.state_dict().items()}
    assert trace(large, pixels(32))[1] is None


def test_a_vision_transformer_gets_smaller_patches_and_no_edits():
    net = plan_net(config("vit_tiny_patch16_224"), 10, 32)
    assert net.edits == ()
    assert net.args == {"img_size": 32, "patch_size": 4}
    assert net.module.pos_embed.shape == (1, 8 * 8 + 1, 192)


@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:test_resnet"])
def test_edits_are_replayed_from_json(name):
    torch.manual_seed(3)
    net = build_net(config(name), 10, 32)
    torch.manual_seed(3)
    again = rebuild(net.source, net.name, 10, json.loads(json.dumps(net.args)), json.loads(json.dumps(net.edits)))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(net.module.eval()(images), again.eval()(images))


def test_looking_at_a_net_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.rand(2, 3, 8, 8))
    net[1].eval()
    before, state = {entry: tensor.clone() for entry, tensor in net.state_dict().items()}, torch.get_rng_state()
    assert trace(net, pixels(8))[1] is None
    assert [part.training for part in net] == [True, False, True, True, True]
    assert all(torch.equal(before[entry], tensor) for entry, tensor in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(part._forward_hooks for part in net)


def test_a_net_that_its_edits_break_says_how_to_go_on():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))
    with pytest.raises(ConfigError, match=r"^teacher\.stem=small: .*; set teacher\.stem=large$"):
        small_stem(net, 32, keep_kernels=False, key="teacher")


def test_a_patch_convolution_with_kept_kernels_keeps_the_resolution():
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1))
    apply_edits(net, [["0", "stride 1, same padding"]])
    assert net[0](torch.rand(1, 3, 32, 32)).shape == (1, 4, 32, 32)
