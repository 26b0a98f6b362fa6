"""What a fine-tuning stage trains: stages found on nets of every kind, frozen layers that stay as they are, rates that fall."""

import copy
import importlib.util

import pytest
import torch
from torch import nn

from distillctl.config import FinetuneStageConfig, ModelConfig, StageConfig
from distillctl.errors import ConfigError
from distillctl.models import partial
from distillctl.models.adapter import Classifier
from distillctl.models.net import build_net, plan_net
from distillctl.models.trace import pixels
from distillctl.optimizers import make_optimizer
from distillctl.training import Ema

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TINY_VIT = {"depth": 4, "embed_dim": 12, "num_heads": 2}


def classifier(name: str, **args) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_net(ModelConfig(name=name, args=args), 10, 32).module, *STATISTICS)


def select(model: Classifier, **budget) -> partial.Part:
    return partial.select(model, pixels(32), FinetuneStageConfig(**budget), 0, "this net")


def learning(model: Classifier) -> set[str]:
    return {name for name, parameter in model.net.named_parameters() if parameter.requires_grad}


def depths(name: str, size: int = 32, **args) -> dict[str, int]:
    """Of each parameter of a net."""
    net = plan_net(ModelConfig(name=name, args=args), 10, size).module
    found = partial.Depths(net, pixels(size))
    return {name: found.depth(name.rpartition(".")[0]) for name, _ in net.named_parameters()}


# where a layer lies


def test_the_stages_of_a_residual_net_count_from_the_head():
    by_prefix = {"fc": 0, "layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "bn1": 5, "conv1": 5}
    assert {name: by_prefix[name.partition(".")[0]] for name in depths("resnet18")} == depths("resnet18")


def test_a_transformer_has_its_blocks_in_four_and_what_comes_before_them_is_the_stem():
    found = depths("vit_tiny_patch16_224")
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert found[name] == 5
    for name in ("norm.weight", "head.weight"):
        assert found[name] == 0
    for block in range(12):
        assert {depth for name, depth in found.items() if name.startswith(f"blocks.{block}.")} == {4 - block // 3}


def test_attention_without_layers_of_its_own_belongs_to_its_block():
    found = depths("vit_b_16")
    assert found["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"] == 4
    assert found["encoder.layers.encoder_layer_11.self_attention.in_proj_weight"] == 1
    assert found["class_token"] == found["encoder.pos_embedding"] == 5
    assert found["encoder.ln.weight"] == 0


def test_a_transformer_of_few_blocks_has_as_many_stages():
    found = depths("vit_tiny_patch16_224", depth=2)
    assert (found["blocks.1.mlp.fc1.weight"], found["blocks.0.mlp.fc1.weight"], found["patch_embed.proj.weight"]) == (1, 2, 3)


def test_attention_weights_are_no_stage():
    found = depths("swin_tiny_patch4_window7_224", 224)
    for stage in range(4):
        inside = {depth for name, depth in found.items() if name.startswith(f"layers.{stage}.blocks")}
        assert inside == {4 - stage}


@pytest.mark.parametrize(
    "name", ["resnet8", "vgg8", "wrn-16-2", "shufflenetv2", "mobilenet_v2", "densenet121", "googlenet", "squeezenet1_1"]
)
def test_depths_fall_towards_the_head_on_nets_of_every_kind(name):
    net = plan_net(ModelConfig(name=name), 10, 32).module
    found = partial.Depths(net, pixels(32))
    assert found.stages >= 3
    placed = [(found.first[owner], found.depth(owner)) for owner, part in net.named_modules() if list(part.parameters(recurse=False))]
    assert {depth for _, depth in placed} >= set(range(found.stages + 1))
    outside = [depth for _, depth in sorted(placed) if depth]
    assert outside == sorted(outside, reverse=True)


# what trains


def test_all_alike_touches_nothing():
    for budget in (StageConfig(epochs=1), FinetuneStageConfig(epochs=1)):
        model = classifier("resnet8")
        assert partial.select(model, pixels(32), budget, 0, "this net") == partial.Part()
        assert model.still == ()
        assert len(learning(model)) == len(list(model.net.parameters()))


def test_the_head_alone():
    model = classifier("resnet8")
    part = select(model, train="head")
    assert learning(model) == {"classifier.weight", "classifier.bias"}
    assert part.summary == "training 650 of 78,042 parameters: head"
    assert part.lr_factors == {}


def test_both_heads_of_a_net_that_has_two():
    model = classifier("deit_tiny_distilled_patch16_224", **TINY_VIT)
    select(model, train="head")
    assert learning(model) == {f"{head}.{entry}" for head in ("head", "head_dist") for entry in ("weight", "bias")}


def test_the_head_and_the_last_stages():
    model = classifier("resnet8")
    part = select(model, train="last", stages=2)
    assert {name.partition(".")[0] for name in learning(model)} == {"stage2", "stage3", "classifier"}
    assert part.summary.endswith(": head and last 2 of 3 stages")
    model = classifier("resnet8")
    assert select(model, train="last").summary.endswith(": head and last stage")
    assert {name.partition(".")[0] for name in learning(model)} == {"stage3", "classifier"}


def test_a_transformers_last_stage_is_its_last_blocks_and_norm():
    model = classifier("vit_tiny_patch16_224", **TINY_VIT)
    select(model, train="last")
    assert {name.rpartition("block")[2][:3] for name in learning(model) if name.startswith("blocks")} == {"s.3"}
    assert {name for name in learning(model) if not name.startswith("blocks")} == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_what_a_net_has_fixed_itself_stays_fixed():
    model = classifier("resnet8")
    model.net.classifier.bias.requires_grad_(False)
    select(model, train="head")
    assert learning(model) == {"classifier.weight"}


# frozen layers stay as they are


def statistics(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.net.named_buffers()}


def moved(model: Classifier, before: dict[str, torch.Tensor]) -> set[str]:
    return {name.partition(".")[0] for name, value in model.net.named_buffers() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, nn.SyncBatchNorm.convert_sync_batchnorm])
def test_frozen_statistics_do_not_move_and_the_others_do(copied):
    model = classifier("resnet8")
    select(model, train="last")
    model = copied(model)
    around = nn.Sequential(model)
    around.eval()
    around.train()
    norms = {name: part for name, part in model.net.named_modules() if hasattr(part, "running_mean")}
    frozen = [part for name, part in norms.items() if not name.startswith("stage3")]
    assert len(frozen) == 6
    assert not any(part.training for part in frozen)
    assert model.net.stage3[0].bn1.training
    if not isinstance(model.net.bn, nn.SyncBatchNorm):  # which runs on a GPU only
        before = statistics(model)
        model(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
        assert moved(model, before) == {"stage3"}


def test_with_the_head_alone_no_statistics_move():
    model = classifier("efficientnet_b0")
    model.train()
    select(model, train="head")
    before = statistics(model)
    model(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    assert moved(model, before) == set()


def test_dropout_is_off_where_layers_are_frozen_and_on_before_the_head():
    model = classifier("vit_tiny_patch16_224", **TINY_VIT, drop_rate=0.5, proj_drop_rate=0.5, drop_path_rate=0.5)
    select(model, train="head")
    model.train()
    assert model.net.head_drop.training
    assert not any(part.training for block in model.net.blocks for part in block.modules())


def test_an_average_of_frozen_weights_is_bit_for_bit_the_weights():
    model = classifier("resnet8").train()
    select(model, train="last")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema = Ema(model, 0.9)
    optimizer = make_optimizer({"_target_": "torch.optim.SGD", "lr": 0.5}, [each for each in model.parameters() if each.requires_grad], 1.0)
    for _ in range(3):
        model(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)).logits.square().sum().backward()
        optimizer.step()
        ema.update(model)
    changed = {name.split(".")[1] for name, value in ema.weights.items() if not torch.equal(value, before[name])}
    assert changed == {"stage3", "classifier"}


# how fast it learns


@pytest.mark.parametrize("optimizer", [{"_target_": "torch.optim.SGD", "lr": 0.4}, {"_target_": "torch.optim.AdamW", "lr": 0.4}])
def test_the_learning_rate_falls_stage_by_stage(optimizer):
    model = classifier("resnet8")
    part = select(model, layer_decay=0.5)
    made = make_optimizer(optimizer, list(model.parameters()), 0.1, part.lr_factors)
    names = {parameter: name for name, parameter in model.net.named_parameters()}
    rates = {names[parameter]: group["initial_lr"] for group in made.param_groups for parameter in group["params"]}
    expected = {"classifier": 0.04, "stage3": 0.02, "stage2": 0.01, "stage1": 0.005, "conv": 0.0025, "bn": 0.0025}
    assert rates == pytest.approx({name: expected[name.partition(".")[0]] for name in names.values()})
    assert sum(len(group["params"]) for group in made.param_groups) == len(names)
    assert part.summary == "training 78,042 of 78,042 parameters: all of them, learning rate x 0.5 a stage from the head"


def test_what_is_frozen_has_no_rate():
    model = classifier("resnet8")
    part = select(model, train="last", layer_decay=0.5)
    assert set(part.lr_factors) == {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert sorted(set(part.lr_factors.values())) == [0.5, 1.0]


# what cannot be done


class NoStages(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)))


def test_a_net_without_stages_has_a_head_and_the_rest():
    model = Classifier(NoStages(), *STATISTICS)
    part = select(model, train="head", layer_decay=0.5)
    assert learning(model) == {"head.weight", "head.bias"}
    model = Classifier(NoStages(), *STATISTICS)
    part = select(model, layer_decay=0.5)
    assert sorted(part.lr_factors.values()) == [0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("net", "budget", "message"),
    [
        ("resnet8", {"train": "last", "stages": 9}, r"^finetune\.stages=9: this net has 3 stages; lower it, or use finetune\.train=all$"),
        (
            None,
            {"train": "last"},
            r"^finetune\.train=last: this net has no stages that can be told apart; use finetune\.train=head or all$",
        ),
        ("resnet8", {"train": "lora"}, r"^finetune\.train=lora: this net has no blocks with linear layers.*; use finetune\.train=last$"),
    ],
)
def test_what_a_net_does_not_have_is_one_line(net, budget, message, monkeypatch):
    monkeypatch.setattr(partial.lora, "require_peft", lambda *where: None)
    model = classifier(net) if net else Classifier(NoStages(), *STATISTICS)
    with pytest.raises(ConfigError, match=message):
        select(model, **budget)


def test_a_net_without_a_classifier_is_one_line():
    model = Classifier(nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), *STATISTICS)
    with pytest.raises(
        ConfigError, match=r"^finetune\.train=head: this net has no linear layer for a classifier; use finetune\.train=all$"
    ):
        select(model, train="head")


def test_adapters_without_their_library_say_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else found(name, *more))
    with pytest.raises(ConfigError, match=r"^finetune\.train=lora needs peft: pip install 'distillctl\[lora\]'$"):
        select(classifier("vit_tiny_patch16_224", **TINY_VIT), train="lora")
