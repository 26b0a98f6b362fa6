"""Adapters: where they go, what they compute, and that what ships is the plain net with them merged in."""

import copy

import pytest
import torch

from distillctl.config import FinetuneStageConfig, LoraConfig, ModelConfig
from distillctl.models import lora, partial
from distillctl.models.adapter import Classifier
from distillctl.models.net import Net, build_net, rebuild
from distillctl.models.trace import pixels

pytest.importorskip("peft")
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
ARGS = {"depth": 2, "embed_dim": 12, "num_heads": 2}
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def tiny() -> Net:
    torch.manual_seed(0)
    return build_net(ModelConfig(name="vit_tiny_patch16_224", args=ARGS), 10, 32)


def adapted(seed: int = 0, **config) -> tuple[Classifier, partial.Part]:
    model = Classifier(tiny().module, *STATISTICS)
    budget = FinetuneStageConfig(train="lora", lora=LoraConfig(**config))
    part = partial.select(model, pixels(32), budget, seed, "vit")
    return model, part


def moved(model: Classifier) -> Classifier:
    """As after some training: adapters and head are not what they were."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def images(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_adapters_sit_in_the_linear_layers_of_the_blocks_and_the_head_learns_too():
    model, part = adapted(rank=4)
    learning = {name for name, parameter in model.net.named_parameters() if parameter.requires_grad}
    expected = {f"blocks.{block}.{layer}.lora_{side}.default.weight" for block in range(2) for layer in LAYERS for side in "AB"}
    assert learning == expected | {"head.weight", "head.bias"}
    # 4 times in and out of qkv, proj, fc1, fc2, in two blocks, and the head
    count = 2 * 4 * ((12 + 36) + (12 + 12) + (12 + 48) + (48 + 12)) + 130
    assert part.summary.startswith(f"training {count:,} of ")
    assert part.summary.endswith(": head, and adapters of rank 4 in 8 linear layers")


def test_before_the_first_step_it_answers_as_it_did():
    before = Classifier(tiny().module, *STATISTICS).eval()(images()).logits
    assert torch.equal(adapted()[0].eval()(images()).logits, before)


def test_what_ships_has_the_nets_own_names_and_answers_the_same():
    net = tiny()
    model = moved(adapted(rank=3, alpha=5)[0]).eval()
    state = model.plain_state()
    own = net.module.state_dict()
    assert list(state) == list(own)
    assert [(value.shape, value.dtype) for value in state.values()] == [(value.shape, value.dtype) for value in own.values()]
    plain = rebuild(net.source, net.name, 10, net.args, net.edits)
    plain.load_state_dict(state)
    before = Classifier(net.module, *STATISTICS).eval()(images()).logits
    answer = model(images()).logits
    assert (answer - before).abs().max() > 0.1
    torch.testing.assert_close(Classifier(plain, *STATISTICS).eval()(images()).logits, answer, rtol=0, atol=1e-5)


def test_the_merged_weight_by_hand():
    model = moved(adapted(rank=3, alpha=5)[0].double())
    layer = model.net.blocks[1].mlp.fc1
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (down.shape, up.shape) == ((3, 12), (48, 3))
    expected = layer.base_layer.weight + 5 / 3 * up @ down
    torch.testing.assert_close(model.plain_state()["blocks.1.mlp.fc1.weight"], expected, rtol=0, atol=1e-9)


def test_reading_the_plain_state_changes_nothing():
    model = moved(adapted()[0])
    before = copy.deepcopy(model.state_dict())
    model.plain_state()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_adapters_are_a_function_of_the_seed():
    one, again, other = (adapted(seed)[0].net.state_dict() for seed in (3, 3, 4))
    first = "blocks.0.attn.qkv.lora_A.default.weight"
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one[first], other[first])


def test_a_copy_of_an_adapted_model_is_its_own():
    model = adapted()[0]
    shadow = copy.deepcopy(model)
    moved(model)
    assert not torch.equal(model(images()).logits, shadow(images()).logits)
    shadow.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()).logits, shadow.eval()(images()).logits)


def test_the_learning_rate_of_an_adapter_is_that_of_its_stage():
    model = Classifier(tiny().module, *STATISTICS)
    part = partial.select(model, pixels(32), FinetuneStageConfig(train="lora", layer_decay=0.5), 0, "vit")
    factors = {name: part.lr_factors[parameter] for name, parameter in model.net.named_parameters() if parameter.requires_grad}
    assert {factor for name, factor in factors.items() if name.startswith("blocks.1")} == {0.5}
    assert {factor for name, factor in factors.items() if name.startswith("blocks.0")} == {0.25}
    assert factors["head.weight"] == 1


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("convnext_tiny", {"features.1.0.block.3", "features.7.2.block.5"}),
        ("swin_t", {"features.1.0.mlp.0", "features.7.1.mlp.3"}),
        ("vit_b_16", {"encoder.layers.encoder_layer_0.mlp.0"}),
    ],
)
def test_nets_of_other_libraries_have_such_layers_too(name, inside):
    from distillctl.models.net import plan_net

    size = 64 if name == "swin_t" else 32
    found = set(partial.adaptable(plan_net(ModelConfig(name=name), 10, size).module, pixels(size)))
    assert inside <= found
    assert not any("head" in layer or "classifier" in layer for layer in found)


def test_a_plain_net_ships_as_it_is():
    net = tiny().module
    assert {name: value.data_ptr() for name, value in lora.plain_state(net).items()} == {
        name: value.data_ptr() for name, value in net.state_dict().items()
    }
