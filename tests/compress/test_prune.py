"""Pruning: the goal is met, what is left answers as the net did without the channels that went, and the record builds it again anywhere."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from distillctl.compress.prune import Pruned, check_prunable, merged, prune, share_of_step
from distillctl.compress.units import Group, Layer, choose, saved
from distillctl.config import ModelConfig, PruneConfig
from distillctl.errors import ConfigError, MachineError
from distillctl.inputs.image import Images
from distillctl.metrics.cost import macs
from distillctl.models.adapter import Classifier
from distillctl.models.edits import Edit, apply_edits
from distillctl.models.net import Net, build_net, plan_net, rebuild
from distillctl.models.obtain import obtain
from distillctl.models.record import Architecture, Record
from distillctl.models.script import load_script
from distillctl.models.shipping import ship
from distillctl.models.trace import pixels
from distillctl.types import Batch

pytest.importorskip("torch_pruning")
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SMALL_VIT = {"depth": 2, "embed_dim": 64, "num_heads": 4, "patch_size": 8}
SMALL_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]}
SMALL_DENSENET = {"growth_rate": 16, "block_config": [2, 2, 2]}
NETS = {
    "resnet8": ("cifar", {}), "resnet20": ("cifar", {}), "vgg8": ("cifar", {}), "wrn_16_1": ("cifar", {}), "shufflenetv2": ("cifar", {}),
    "resnet18": ("torchvision", {}), "mobilenet_v2": ("torchvision", {}), "mobilenet_v3_small": ("torchvision", {}),
    "mobilenetv3_small_050": ("timm", {}), "efficientnet_b0": ("timm", {}), "densenet121": ("timm", SMALL_DENSENET), "vit_tiny_patch16_224": ("timm", SMALL_VIT),
    "convnext_atto": ("timm", SMALL_CONVNEXT),
}  # fmt: skip
MIXES_CHANNELS = ("convnext_atto", "vit_tiny_patch16_224")  # by layer norms, or heads that are cut without a trace in vectors


def net_of(name: str, source: str = "cifar", args: dict | None = None, classes: int = 7) -> Net:
    """With scales, shifts and statistics as of a trained net, none like another: fresh ones hide what is wrong."""
    torch.manual_seed(0)
    net = build_net(ModelConfig(name=name, source=source, args=args or {}), classes, 32)
    generator = torch.Generator().manual_seed(0)
    for entry, value in net.module.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + (0.75 if entry.endswith(("weight", "var")) else -0.25))
    net.module.eval()
    return net


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def batches(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randint(256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(count)]
    return [Batch(images, torch.arange(8) % 7, torch.arange(8) + 8 * place, 0) for place, images in enumerate(drawn)]


def cut(net: Net, step: int = 1, **config) -> Pruned:
    settings = PruneConfig(**{"name": "magnitude", **config})
    return prune(net, pixels(32), settings, classifier=Classifier(net.module, *STATISTICS), batches=batches(), step=step)


def rebuilt(net: Net, classes: int = 7) -> nn.Module:
    """From what its record says, through JSON."""
    content = json.loads(json.dumps(Architecture(net.source, net.name, net.stem, net.args, net.edits, 32).to_json()))
    told = Architecture.from_json(content)
    return rebuild(told.source, told.name, classes, told.args, told.edits)


def without(full: nn.Module, pruned: nn.Module) -> nn.Module:
    """The whole net with zeros where channels went: survivors are known by their scales and shifts, no two of which are equal."""
    parts = dict(pruned.named_modules())
    for name, part in full.named_modules():
        for entry, value in part.named_parameters(recurse=False):
            if value.ndim == 1:
                gone = ~torch.isin(value.detach(), getattr(parts[name], entry).detach())
                for each in part.parameters(recurse=False):
                    each.data[gone] = 0
    return full


@pytest.mark.parametrize("name", NETS)
def test_half_the_macs_go_and_the_rest_answers_as_before(name):
    net = net_of(name, *NETS[name])
    full, before = copy.deepcopy(net.module), macs(net.module, torch.zeros(1, 3, 32, 32))
    found = cut(net, target_macs=0.5)
    assert found.net.module is net.module
    assert (found.macs_before, found.macs) == (before, macs(net.module, torch.zeros(1, 3, 32, 32)))
    assert abs(found.macs / before - 0.5) < 0.015
    assert found.parameters == sum(value.numel() for value in net.module.parameters()) < found.parameters_before
    assert found.said == ()
    answer = logits(net.module)
    assert answer.shape == (2, 7)
    again = rebuilt(found.net)
    again.load_state_dict(net.module.state_dict())
    assert torch.equal(logits(again), answer)
    if name not in MIXES_CHANNELS:
        masked = logits(without(full, net.module))
        assert (masked - answer).abs().max() < 1e-4 * answer.std()
        assert (logits(full) - answer).abs().max() < 1e-4 * answer.std()


def test_heads_that_are_cut_were_heads():
    net = net_of("vit_tiny_patch16_224", "timm", SMALL_VIT)
    whole = [copy.deepcopy(block.attn) for block in net.module.blocks]
    found = cut(net, ratio=0.5, scope="layer")
    assert ("blocks.0.attn", "heads 2") in found.edits
    tokens = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(3))
    for before, block in zip(whole, net.module.blocks, strict=True):
        after = block.attn
        assert (after.num_heads, after.head_dim, after.attn_dim, after.scale) == (2, 16, 32, before.scale)
        kept = torch.isin(before.qkv.bias[:64].view(4, 16), after.qkv.bias).all(1)
        assert kept.sum() == 2
        before.proj.weight.data.view(64, 4, 16)[:, ~kept] = 0
        torch.testing.assert_close(after(tokens), before(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["taylor", "bn_scale"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_importance_and_scope_meets_the_goal(name, scope):
    net = net_of("resnet20")
    found = cut(net, name=name, scope=scope, target_macs=0.4)
    assert abs(found.macs / found.macs_before - 0.4) < 0.012
    again = rebuilt(found.net)
    again.load_state_dict(net.module.state_dict())
    assert torch.equal(logits(again), logits(net.module))


def test_taylor_and_magnitude_choose_by_other_things():
    files = {save(cut(net_of("resnet8"), name=name).net.module.state_dict()) for name in ("magnitude", "taylor", "bn_scale")}
    assert len(files) == 3


def test_the_least_scales_go_by_bn_scale():
    net = net_of("resnet8")
    scales = net.module.stage1[0].bn1.weight.detach().clone()
    cut(net, name="bn_scale", ratio=0.5, scope="layer")
    assert torch.equal(net.module.stage1[0].bn1.weight, scales[scales > scales.median()])


def test_a_dead_channel_goes_first_by_magnitude():
    net = net_of("resnet8")
    block = net.module.stage1[0]
    dead = torch.arange(16) % 4 == 0
    with torch.no_grad():
        block.conv1.weight[dead], block.bn1.weight[dead], block.bn1.bias[dead], block.conv2.weight[:, dead] = 0, 0, 0, 0
    alive = block.bn1.bias[~dead].clone()
    cut(net, ratio=0.25, scope="layer")
    assert torch.equal(block.bn1.bias, alive)


@pytest.mark.parametrize("name", ["magnitude", "taylor", "bn_scale"])
def test_the_same_weights_lose_the_same_channels(name):
    files = [save(cut(net_of("resnet8"), name=name, ratio=0.4).net.module.state_dict()) for _ in range(2)]
    assert files[0] == files[1]


def test_pruning_leaves_modes_gradients_and_frozen_weights_as_they_were():
    net = net_of("resnet8")
    net.module.train()
    net.module.stage1[0].bn2.eval()
    net.module.classifier.requires_grad_(False)
    modes = {path: part.training for path, part in net.module.named_modules()}
    running = net.module.stage1[0].bn1.running_mean.clone()
    cut(net, name="taylor", scope="layer", ratio=0.5)
    assert {path: part.training for path, part in net.module.named_modules()} == modes
    assert {path for path, value in net.module.named_parameters() if not value.requires_grad} == {"classifier.weight", "classifier.bias"}
    assert all(value.grad is None for value in net.module.parameters())
    assert torch.isin(net.module.stage1[0].bn1.running_mean, running).all()


def test_a_classifier_keeps_its_outputs_and_its_record_takes_other_classes():
    found = cut(net_of("resnet8"), ratio=0.5)
    assert found.net.module.classifier.out_features == 7
    spelled = dict(found.edits)["classifier"]
    assert spelled.split()[0] == "inputs"
    assert rebuilt(found.net, classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_pruning_twice_is_one_edit_a_layer_and_builds_again():
    first = cut(net_of("resnet8"), ratio=0.25)
    second = cut(first.net, ratio=0.25)
    paths = [edit.module for edit in second.net.edits]
    assert len(paths) == len(set(paths))
    again = rebuilt(second.net)
    again.load_state_dict(second.net.module.state_dict())
    assert torch.equal(logits(again), logits(second.net.module))
    assert second.macs < second.macs_before == first.macs


def test_steps_end_where_one_go_ends():
    counts = {}
    for steps in (1, 3):
        net = net_of("resnet20")
        for step in range(1, steps + 1):
            net = cut(net, step=step, steps=steps, ratio=0.5, scope="layer").net
        counts[steps] = net.module.stage3[0].conv1.out_channels
    assert counts[1] == 32
    assert counts[3] in (31, 32)  # each step rounds
    for target in (0.5, 20_000_000):
        net, seen = net_of("resnet20"), []
        whole = macs(net.module, torch.zeros(1, 3, 32, 32))
        for step in (1, 2):
            found = cut(net, step=step, steps=2, target_macs=target)
            net, seen = found.net, [*seen, found.macs]
        goal = target * whole if target <= 1 else target
        assert abs(seen[1] - goal) < 0.02 * goal
        assert abs(seen[0] - (whole + goal) / 2) < 0.02 * whole
    assert share_of_step(0.5, 1, 2) == pytest.approx(0.25)
    assert (1 - share_of_step(0.5, 1, 2)) * (1 - share_of_step(0.5, 2, 2)) == pytest.approx(0.5)


def test_it_goes_on_from_other_edits():
    net = net_of("resnet18", "torchvision")
    assert [edit.became for edit in net.edits] == ["3x3, stride 1", "identity"]
    bottleneck = (Edit("avgpool", "bottleneck 512 64 128"), Edit("fc", "linear 128"))
    apply_edits(net.module, bottleneck)
    net = dataclasses.replace(net, edits=(*net.edits, *bottleneck))
    found = cut(net, target_macs=0.5)
    assert found.net.edits[:4] == net.edits
    assert "avgpool.0.0" in dict(found.edits)
    again = rebuilt(found.net)
    again.load_state_dict(net.module.state_dict())
    assert torch.equal(logits(again), logits(net.module))


def test_edits_of_widths_replace_each_other_where_nothing_came_between():
    old = (Edit("a", "norm 9"), Edit("b", "identity"), Edit("a", "norm 8"), Edit("c", "norm 8"))
    assert merged(old, (Edit("a", "norm 7"),)) == (Edit("a", "norm 9"), Edit("b", "identity"), Edit("a", "norm 7"), Edit("c", "norm 8"))


def record_of(net: Net) -> Record:
    images = Images(tuple("abcdefg"), 32, *STATISTICS)
    return Record(Architecture(net.source, net.name, net.stem, net.args, net.edits, 32), images.classes, images.record())


ALONE = """
import importlib.util, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "distillctl":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import torch
from safetensors.torch import load_file, save_file
for folder in sys.argv[1:]:
    found = importlib.util.spec_from_file_location("load_student", folder + "/load_student.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    with torch.no_grad():
        save_file({"logits": module.load()(load_file(folder + "/seen.safetensors")["inputs"])}, folder + "/answer.safetensors")
"""


def test_the_loading_script_needs_nothing_of_ours(tmp_path: Path):
    expected = {}
    for name in ("resnet8", "shufflenetv2", "mobilenet_v3_small", "vit_tiny_patch16_224", "convnext_atto"):
        net = cut(net_of(name, *NETS[name]), target_macs=0.5).net
        record = record_of(net)
        folder = tmp_path / name
        folder.mkdir()
        script = load_script(net, "student", record, Images.from_record(record).script())
        ship(folder, "student", net.module.state_dict(), record, script)
        save_file({"inputs": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))}, folder / "seen.safetensors")
        expected[folder] = logits(net.module)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, expected)], capture_output=True, text=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    for folder, answer in expected.items():
        assert torch.equal(load_file(folder / "answer.safetensors")["logits"], answer), folder.name


def test_a_shipped_file_of_a_tenth_of_the_net_is_obtained_again(tmp_path: Path):
    """Its whole net makes many more weights than the file holds."""
    net = cut(net_of("resnet18", "torchvision"), ratio=0.9).net
    record = record_of(net)
    ship(tmp_path, "student", net.module.state_dict(), record, "")
    assert (tmp_path / "student.safetensors").stat().st_size < 600_000
    images = Images(record.classes, 32, *STATISTICS)
    found = obtain(ModelConfig(name="recorded", checkpoint=str(tmp_path / "student.safetensors")), images, "student", 0)
    assert torch.equal(logits(found.net.module), logits(net.module))


# choosing


def group(importance: list[float], layer: Layer | None = None, kind: str = "channels") -> Group:
    width = len(importance)
    return Group("g", torch.tensor(importance), [(layer or Layer(100, width, 4), True, torch.arange(width))], lambda units: None, kind)


def test_the_least_important_go_wherever_they_are_but_never_all_of_a_layer():
    strong, weak = group([9.0, 8.0, 7.0, 6.0]), group([0.1, 0.2, 0.3, 0.4])
    assert choose([strong, weak], 0.25, "global") == [[], [0, 1]]
    assert choose([strong, weak], 0.5, "global") == [[3], [0, 1, 2]]
    assert choose([strong, weak], 0.5, "layer") == [[2, 3], [0, 1]]
    assert choose([strong, weak], 0.99, "layer") == [[1, 2, 3], [0, 1, 2]]
    assert choose([strong, group([0.1, 0.2], kind="heads")], 0.5, "global") == [[2, 3], [0]]  # heads compete with heads


def test_ties_go_by_position():
    assert choose([group([1.0] * 4), group([1.0] * 4)], 0.25, "global") == [[0, 1], []]


def test_the_last_channel_of_a_layer_that_few_go_through_stays():
    layer = Layer(100, 1, None)
    joined = Group("g", torch.tensor([0.1, 1.0, 2.0, 3.0]), [(layer, False, torch.tensor([0]))], lambda units: None)
    assert choose([joined], 0.5, "layer") == [[1, 2]]


def test_what_is_saved_goes_with_both_sides_of_a_layer():
    layer = Layer(1000, 10, 10)
    before = Group("a", torch.arange(10.0), [(layer, False, torch.arange(10))], lambda units: None)
    behind = Group("b", torch.arange(10.0), [(layer, True, torch.arange(10))], lambda units: None)
    assert saved([before, behind], [[0, 1], []]) == 200
    assert saved([before, behind], [[0, 1], [0, 1, 2, 3, 4]]) == 1000 - 8 * 5 * 10


# what cannot be


class Counts(nn.Module):
    """Changes a weight as it answers, which cannot be done while gradients are followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.calls = nn.Conv2d(3, 8, 3), nn.Linear(8, 7), nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.calls.add_(1)
        return self.fc(self.conv(images).mean((2, 3)))


def own(module: nn.Module) -> Net:
    return Net(module, "own", "ours.Own", "large", (), {}, None, None, 32)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"ratio": 0.0}, "prune.ratio=0.0: must be above 0 and at most 0.99"),
        ({"ratio": 1.0}, "prune.ratio=1.0: must be above 0"),
        ({"target_macs": 1.0}, "prune.target_macs=1: all multiply-accumulates stay"),
        ({"target_macs": -1.0}, "prune.target_macs=-1.0: must be above 0"),
        ({"target_macs": 1e12}, r"prune.target_macs=1,000,000,000,000: resnet8 has \d+(,\d+)* multiply-accumulates, which is not more"),
        ({"name": "unstructured"}, "prune=unstructured cuts no channels"),
        ({"name": "none"}, "prune=none cuts no channels"),
        ({"steps": 2, "step": 3}, "prune.steps=2: there is no step 3"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(config, said):
    net = net_of("resnet8")
    before = copy.deepcopy(net.module.state_dict())
    with pytest.raises(ConfigError, match=said) as error:
        cut(net, **config)
    assert "\n" not in str(error.value)
    assert {name: value.shape for name, value in net.module.state_dict().items()} == {name: value.shape for name, value in before.items()}


def test_a_net_without_batch_norms_has_no_scales():
    with pytest.raises(ConfigError, match="prune=bn_scale: vit_tiny_patch16_224 has no batch norm with a scale; set prune=magnitude"):
        cut(net_of("vit_tiny_patch16_224", "timm", SMALL_VIT), name="bn_scale")


def test_a_net_that_cannot_be_followed_is_one_line():
    with pytest.raises(ConfigError, match="prune: torch-pruning cannot follow ours.Own") as error:
        cut(own(Counts()))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="prune=magnitude: no channels of ours.Own can be cut"):
        cut(own(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7))))


def test_taylor_needs_images():
    with pytest.raises(ConfigError, match="prune=taylor takes gradients of training images, and was given none"):
        prune(net_of("resnet8"), pixels(32), PruneConfig(name="taylor"))
    net = net_of("resnet8")
    with pytest.raises(ConfigError, match="and was given none"):
        prune(net, pixels(32), PruneConfig(name="taylor"), classifier=Classifier(net.module, *STATISTICS), batches=[])


def test_a_goal_out_of_reach_says_the_nearest():
    found = cut(own(Encoder()), target_macs=0.05)
    line, _ = found.said
    assert line.startswith("prune.target_macs: the nearest to ")
    assert f" is {found.macs:,}" in line


def test_attention_that_stays_is_named():
    net = own(Encoder())
    [line] = cut(net, ratio=0.5).said
    assert line == "prune: the heads of attention (MultiheadAttention) stay: only those of timm's plain attention can be cut"
    assert (net.module.mlp[0].out_features, net.module.attention.embed_dim) == (8, 8)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.fc = nn.Linear(8, 7)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.fc((tokens + self.mlp(tokens)).mean(1))


def test_what_cannot_be_pruned_is_found_on_a_plan_without_weights():
    plan = plan_net(ModelConfig(name="resnet8"), 7, 32)
    assert check_prunable(plan, pixels(32), PruneConfig(name="taylor", target_macs=0.5)) == ()
    assert all(value.is_meta for value in plan.module.parameters())
    assert plan.module.classifier.in_features == 64
    with pytest.raises(ConfigError, match="no channels of shufflenetv1 can be cut"):
        check_prunable(plan_net(ModelConfig(name="shufflenetv1"), 7, 32), pixels(32), PruneConfig(name="magnitude"))


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MachineError, match=r"need torch-pruning: pip install 'distillctl\[prune\]'"):
        prune(net_of("resnet8"), pixels(32), PruneConfig(name="magnitude"))


def test_a_net_without_weights_is_one_line():
    with pytest.raises(ConfigError, match="prune=magnitude: no channels of ours.Own can be cut"):
        cut(own(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())))
