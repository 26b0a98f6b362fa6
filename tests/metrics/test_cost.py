"""Costs by hand on small modules, against published counts on large ones, and that measuring leaves no trace."""

import functools
import time

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

from distillctl.metrics import cost


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


EXAMPLE = torch.zeros(2, 3, 8, 8)
SMALL_MACS = 3 * 4 * 9 * 64 + 4 * 64 * 10


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


# parameters and megabytes


def test_parameters_by_hand():
    assert cost.parameters(small()) == 3 * 4 * 9 + 2 * 4 + 4 * 64 * 10 + 10


def test_frozen_parameters_count_and_tied_ones_count_once():
    module = small().requires_grad_(False)
    assert cost.parameters(module) == cost.parameters(small())
    assert cost.parameters(Tied()) == 40


def test_size_holds_buffers_at_their_dtypes():
    floats = 3 * 4 * 9 + 4 * 4 + 4 * 64 * 10 + 10  # weights, batch norm's two parameters and two statistics
    assert cost.size_mb(small()) == pytest.approx((4 * floats + 8) / 1e6)  # and an int64 counter
    assert cost.size_mb(small().half()) == pytest.approx((2 * floats + 8) / 1e6)


def test_tied_weights_are_stored_once():
    assert cost.size_mb(Tied()) == pytest.approx(160 / 1e6)


def test_size_is_that_of_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    for module in (torchvision.models.mobilenet_v3_small(), Tied()):
        safetensors.save_model(module, str(tmp_path / "student.safetensors"))
        header = 8 + int.from_bytes((tmp_path / "student.safetensors").read_bytes()[:8], "little")
        assert (tmp_path / "student.safetensors").stat().st_size - header == round(cost.size_mb(module) * 1e6)


# multiply-accumulates


def test_macs_by_hand_at_batch_1():
    assert cost.macs(small(), EXAMPLE) == SMALL_MACS
    assert cost.macs(small(), EXAMPLE[:1]) == SMALL_MACS
    assert cost.macs(small().half(), EXAMPLE.half()) == SMALL_MACS


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", 1.814e9), ("mobilenet_v2", 0.301e9), ("resnet152", 11.514e9), ("vit_b_16", 17.564e9)]
)
def test_macs_of_known_networks(name, published):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
    assert cost.macs(network, torch.zeros(1, 3, 224, 224, device="meta")) == pytest.approx(published, rel=0.01)


def test_macs_of_a_large_network_take_no_time():
    network, example = torchvision.models.resnet152(), torch.zeros(1, 3, 224, 224)
    start = time.process_time()
    cost.macs(network, example)
    assert time.process_time() - start < 3  # 0.5 s where it was written; running it for real takes longer than that, and allocates


def test_fused_attention_and_recurrence_are_counted():
    length, width = 5, 8
    encoder = nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=16, batch_first=True)
    by_hand = length * width * (4 * width + 2 * 16) + 2 * length * length * width
    assert cost.macs(encoder, torch.zeros(1, length, width)) == by_hand
    assert cost.macs(nn.LSTM(width, 6, batch_first=True), torch.zeros(1, length, width)) == length * 4 * 6 * (width + 6)


def test_counting_puts_the_fast_kernels_back():
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    cost.macs(small(), EXAMPLE)
    with pytest.raises(RuntimeError):
        cost.macs(small(), torch.zeros(1, 5, 8, 8))
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()) == before


class Remembers(nn.Module):
    """Changes its buffer and keeps its input even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.last = None

    def forward(self, inputs):
        assert not self.training
        self.calls += 1
        self.last = inputs
        return self.linear(inputs)


def test_counting_leaves_no_trace():
    module = Remembers()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    assert cost.macs(module, torch.zeros(1, 4)) == 16
    assert module.training
    assert module.last is None
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    assert type(module.linear.weight) is nn.Parameter
    assert module.linear.weight.requires_grad


class Tapped(nn.Module):
    """Reads a feature through a hook of its own, and needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[str, torch.Tensor] = {}
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.body.register_forward_hook(functools.partial(self.keep, "body"))

    def keep(self, name, module, inputs, output):
        self.features[name] = output

    def forward(self, inputs):
        self.body(inputs)
        return self.head(self.features["body"])


def test_a_models_own_hooks_work_on_the_copy():
    module = Tapped()
    assert cost.macs(module, torch.zeros(1, 4)) == 16 + 8
    assert module.features == {}
    assert len(module.body._forward_hooks) == 1


def test_a_plain_hook_sees_nothing_and_stays():
    module, seen = small(), []
    module[0].register_forward_hook(lambda *args: seen.append(args))
    module[0].register_forward_pre_hook(lambda *args: seen.append(args))
    assert cost.macs(module, EXAMPLE) == SMALL_MACS
    assert seen == []
    module(EXAMPLE)
    assert len(seen) == 2


def test_pruned_and_reparametrised_weights_are_counted():
    pruned, normed = nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    prune.random_unstructured(pruned, "weight", 0.5)
    assert cost.macs(pruned, torch.zeros(1, 4)) == 16
    assert cost.macs(normed, torch.zeros(1, 4)) == 16


def test_a_path_that_depends_on_values_cannot_be_counted():
    class Early(nn.Linear):
        def forward(self, inputs):
            return inputs if inputs.sum().item() > 0 else super().forward(inputs)

    with pytest.raises(RuntimeError):
        cost.macs(Early(4, 4), torch.zeros(1, 4))
