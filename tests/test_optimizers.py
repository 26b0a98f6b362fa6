"""Groups of parameters that learn slower or decay less, and one group where nothing is asked for."""

import pytest
import torch
from torch import nn

from distillctl.errors import ConfigError
from distillctl.optimizers import make_optimizer

SGD = {"_target_": "torch.optim.SGD", "lr": 0.2, "momentum": 0.9, "weight_decay": 0.1}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 0.2, "weight_decay": 0.1}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (3,), (4, 3), (4,))
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


@pytest.mark.parametrize("config", [SGD, ADAMW])
@pytest.mark.parametrize("extra", [{}, {"weight_decay_norm_bias": True}])
def test_without_a_wish_it_is_the_plain_optimizer(config, extra):
    ours, theirs = parameters(), parameters()
    kind = getattr(torch.optim, config["_target_"].rpartition(".")[2])
    plain = kind(theirs, **{name: value for name, value in config.items() if name != "_target_"} | {"lr": 0.1})
    optimizer = make_optimizer(config | extra, ours, 0.5)
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["initial_lr"] == 0.1
    for _ in range(3):
        for step, group in ((optimizer, ours), (plain, theirs)):
            step.zero_grad()
            sum((parameter**2).sum() for parameter in group).backward()
            step.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("config", [SGD, ADAMW])
def test_each_parameter_is_in_one_group_and_the_fastest_group_comes_first(config):
    own = parameters()
    optimizer = make_optimizer(config, own, 0.5, {own[0]: 0.25, own[1]: 0.25, own[2]: 0.5})
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05, 0.025])
    assert [group["lr"] for group in optimizer.param_groups] == [group["initial_lr"] for group in optimizer.param_groups]
    held = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    assert held == [[id(own[3])], [id(own[2])], [id(own[0]), id(own[1])]]
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)


def test_one_step_by_hand():
    own = parameters()
    before = [parameter.detach().clone() for parameter in own]
    optimizer = make_optimizer(SGD | {"weight_decay_norm_bias": False}, own, 1.0, {own[0]: 0.5, own[1]: 0.5})
    sum((parameter**3).sum() for parameter in own).backward()
    optimizer.step()
    for parameter, start, lr, decay in zip(own, before, (0.1, 0.1, 0.2, 0.2), (0.1, 0.0, 0.1, 0.0), strict=True):
        torch.testing.assert_close(parameter.detach(), start - lr * (3 * start**2 + decay * start), rtol=0, atol=1e-12)


def test_vectors_do_not_decay_where_that_is_asked_for():
    optimizer = make_optimizer(ADAMW | {"weight_decay_norm_bias": False}, parameters(), 1.0)
    kinds = [(group["weight_decay"], {parameter.ndim for parameter in group["params"]}) for group in optimizer.param_groups]
    assert kinds == [(0.1, {2}), (0.0, {1})]


def test_a_word_for_a_flag_is_one_line():
    with pytest.raises(ConfigError, match=r"^optimizer\.weight_decay_norm_bias=never: expected true or false$"):
        make_optimizer(SGD | {"weight_decay_norm_bias": "never"}, parameters(), 1.0)
