"""Zeros in place of the smallest weights: which, how many, what that does to a file, and that training keeps them."""

import copy
import gzip

import pytest
import torch
from safetensors.torch import save
from torch import nn

from distillctl.compress.sparsity import HONEST, keep_zeros, sparsify, sparsity_of
from distillctl.errors import ConfigError
from distillctl.models.cifar.resnet import resnet8


def net() -> nn.Module:
    torch.manual_seed(0)
    return resnet8(10)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([part.weight.detach().flatten() for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))])


def test_the_smallest_weights_of_the_whole_net_become_zero():
    module = net()
    before = weights(module)
    names = list(module.state_dict())
    others = {name: value.clone() for name, value in module.state_dict().items() if value.ndim == 1}
    found = sparsify(module, 0.75)
    after = weights(module)
    border = before.abs().sort().values[round(0.75 * len(before))]
    assert torch.equal(after, torch.where(before.abs() >= border, before, 0.0))
    assert (found.zeros, found.weights) == (int((after == 0).sum()), len(before))
    assert found.share == pytest.approx(0.75, abs=1e-4)
    assert list(module.state_dict()) == names  # no masks and no second weights are left behind
    assert all(torch.equal(module.state_dict()[name], value) for name, value in others.items())
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_the_file_is_as_large_and_gzip_makes_less_of_it():
    dense, module = sparsity_of(net()), net()
    found = sparsify(module, 0.9)
    content = save(module.state_dict())
    assert found.file_bytes == dense.file_bytes == len(content)
    assert found.gzip_bytes == len(gzip.compress(content)) < 0.35 * dense.gzip_bytes
    assert dense.gzip_bytes > 0.85 * dense.file_bytes
    assert (dense.share, dense.zeros) == (0, 0)
    assert found.to_json() == {
        "share": found.share, "zeros": found.zeros, "weights": found.weights, "file_bytes": found.file_bytes, "gzip_bytes": found.gzip_bytes, "said": HONEST
    }  # fmt: skip


def test_the_same_weights_lose_the_same():
    files = []
    for _ in range(2):
        module = net()
        sparsify(module, 0.5)
        files.append(save(module.state_dict()))
    assert files[0] == files[1]


def test_frozen_weights_stay_frozen_and_shared_ones_shared():
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    first.requires_grad_(False)
    module = nn.Sequential(first, second)
    found = sparsify(module, 0.5)
    assert found.weights == 64
    assert module[0].weight is module[1].weight
    assert not module[0].weight.requires_grad


def trained(module: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        optimizer.zero_grad()
        module(torch.rand(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_training_keeps_the_zeros_and_goes_on_exactly_after_a_kill(kind):
    options = {"lr": 0.01, "weight_decay": 1e-3, **({"momentum": 0.9} if kind is torch.optim.SGD else {})}
    start = net()
    sparsify(start, 0.8)

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        module = copy.deepcopy(start)
        optimizer = kind(module.parameters(), **options)
        keep_zeros(module, optimizer)
        return module, optimizer

    through, optimizer = made()
    trained(through, optimizer, 0, 4)
    zeros = weights(start) == 0
    assert torch.equal(weights(through)[zeros], torch.zeros(int(zeros.sum())))
    assert (weights(through)[~zeros] != weights(start)[~zeros]).float().mean() > 0.99

    killed, optimizer = made()
    trained(killed, optimizer, 0, 2)
    saved = copy.deepcopy((killed.state_dict(), optimizer.state_dict()))
    resumed, optimizer = made()
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    trained(resumed, optimizer, 2, 4)
    assert save(resumed.state_dict()) == save(through.state_dict())


def test_without_the_handle_they_move():
    module = net()
    sparsify(module, 0.8)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    keep_zeros(module, optimizer).remove()
    trained(module, optimizer, 0, 1)
    assert sparsity_of(module).share < 0.7


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 2.0])
def test_a_share_that_cannot_be_is_one_line(ratio):
    with pytest.raises(ConfigError, match=f"prune.ratio={ratio}: must be above 0 and below 1"):
        sparsify(net(), ratio)


def test_a_net_without_weights_is_one_line():
    with pytest.raises(ConfigError, match="prune=unstructured: the net has no convolution and no linear layer"):
        sparsify(nn.Sequential(nn.BatchNorm2d(3)), 0.5)
