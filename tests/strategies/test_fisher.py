"""Elastic weight consolidation: the Fisher information against single samples, how it adds up over tasks, and the penalty."""

import pytest
import torch
from lessons import CE, FIRST, LATER, WIDE, batch, cross_entropy, loss, softmax
from torch import nn

from distillctl import draws
from distillctl.data.split import whole
from distillctl.models.adapter import Adapter
from distillctl.strategies.ewc import Ewc, drawn, fisher_information
from distillctl.strategies.task import Samples
from distillctl.types import Batch

SEED = 11


def student(seed: int = 0, classes: int = 5) -> Adapter:
    """With a batch norm, whose statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(WIDE, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, classes)).double()
    net(torch.randn(50, WIDE, dtype=torch.float64) * 2 + 1)
    return Adapter(net)


def samples_of(came: Batch, once: int = 4) -> Samples:
    def plain(split):
        for part in torch.arange(len(split)).split(once):
            yield Batch(split.inputs[part], split.targets[part], split.index[part], -1)

    return Samples(whole(came.plain, came.targets), plain)


def squares_of_each(net: Adapter, inputs, labels) -> list[dict]:
    """The squared gradient of log p(y | x), sample by sample, by autograd alone."""
    net.eval()
    found = []
    for sample, label in zip(inputs, labels, strict=True):
        net.zero_grad()
        torch.log_softmax(net(sample[None]).logits[0], 0)[int(label)].backward()
        found.append({name: value.grad.clone() ** 2 for name, value in net.named_parameters()})
    net.zero_grad()
    return found


def mean_of(squares: list[dict]) -> dict:
    return {name: sum(one[name] for one in squares) / len(squares) for name in squares[0]}


def luck_of(net: Adapter, samples: Samples) -> list[int]:
    """Labels drawn from the net's answer by the sample's index: the first whose share of [0, 1) reaches the drawn number."""
    net.eval()
    labels = []
    for inputs, index in zip(samples.split.inputs, samples.split.index.tolist(), strict=True):
        number, so_far = draws.uniform(SEED, "fisher label", torch.tensor([index])).item(), 0.0
        with torch.no_grad():
            shares = softmax(net(inputs[None]).logits[0].tolist())
        for label, share in enumerate(shares):  # noqa: B007
            so_far += share
            if number <= so_far:
                break
        labels.append(label)
    return labels


def same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-15, msg=name)


@pytest.mark.parametrize("once", [1, 4, 100])
def test_with_true_labels_it_is_the_mean_of_squared_gradients_of_single_samples(once):
    net, came = student(), batch(1, 18)
    samples = samples_of(came, once)
    found = fisher_information(net, samples.plain(samples.split), "true", SEED)
    same(found, mean_of(squares_of_each(net, came.plain, came.targets)))


def test_with_the_models_labels_it_is_that_of_labels_drawn_from_its_own_answers():
    net, came = student(), batch(1, 18)
    samples = samples_of(came)
    labels = luck_of(net, samples)
    assert labels != came.targets.tolist()
    found = fisher_information(net, samples.plain(samples.split), "model", SEED)
    same(found, mean_of(squares_of_each(net, came.plain, labels)))


def test_labels_are_drawn_as_often_as_the_model_says():
    """Chi-square of 20,000 draws of 5 classes: 23.5 is exceeded once in ten thousand times (4 degrees of freedom)."""
    net, count = student().eval(), 20_000
    one = batch(1, 1).plain
    many = Batch(one.expand(count, -1), torch.zeros(count, dtype=torch.int64), torch.arange(count), -1)
    there = torch.bincount(drawn(net, many, SEED), minlength=5).tolist()
    with torch.no_grad():
        expected = [count * share for share in softmax(net(one).logits[0].tolist())]
    assert sum((a - b) ** 2 / b for a, b in zip(there, expected, strict=True)) < 23.5


def test_pieces_for_the_memory_of_the_machine_change_nothing(monkeypatch):
    net, came = student(), batch(1, 18)
    samples = samples_of(came, 18)
    expected = fisher_information(net, samples.plain(samples.split), "true", SEED)
    monkeypatch.setattr("distillctl.strategies.ewc.AT_ONCE", 300)
    same(fisher_information(net, samples.plain(samples.split), "true", SEED), expected)


def test_it_is_measured_in_eval_mode_and_leaves_the_net_as_it_was():
    net, came = student(), batch(1, 18)
    net.train()
    net.net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    samples = samples_of(came)
    fisher_information(net, samples.plain(samples.split), "model", SEED)
    assert (net.training, net.net[1].training, net.net[0].training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(value.grad is None for value in net.parameters())


def test_weights_that_are_frozen_have_none():
    net, came = student(), batch(1, 18)
    expected = mean_of(squares_of_each(net, came.plain, came.targets))
    net.net[0].requires_grad_(False)
    samples = samples_of(came)
    found = fisher_information(net, samples.plain(samples.split), "true", SEED)
    same(found, {name: value for name, value in expected.items() if not name.startswith("net.0.")})


def test_as_many_samples_are_looked_at_as_it_says():
    net, came = student(), batch(1, 18)
    strategy = Ewc(net, loss(), task=FIRST, seed=SEED, samples=1, labels="true")
    strategy.after_task(net, samples_of(came))
    alike = [
        place
        for place, one in enumerate(squares_of_each(net, came.plain, came.targets))
        if all(torch.allclose(one[name], value, rtol=1e-9) for name, value in strategy.fisher.items())
    ]
    assert len(alike) == 1
    strategy = Ewc(net, loss(), task=FIRST, seed=SEED, samples=18, labels="true")
    strategy.after_task(net, samples_of(came))
    same(strategy.fisher, mean_of(squares_of_each(net, came.plain, came.targets)))


# ------------------------------------------------------------------------------------------------- over tasks


def moved(net: Adapter) -> Adapter:
    """After some learning."""
    torch.manual_seed(4)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return net


def held(net: Adapter, fisher: dict, anchor: dict) -> float:
    """Σ F (θ - θ*)², number by number."""
    total = 0.0
    for name, value in net.named_parameters():
        numbers = zip(value.flatten().tolist(), fisher[name].flatten().tolist(), anchor[name].flatten().tolist(), strict=True)
        total += sum(weight * (now - then) ** 2 for now, weight, then in numbers)
    return total


def test_two_tasks_add_up_with_decay_and_the_anchor_is_the_last_one():
    net, one, other = student(), batch(1, 18, high=3), batch(2, 14, low=3)
    strategy = Ewc(net, loss(), task=FIRST, seed=SEED, strength=8.0, decay=0.6, labels="true", samples=None, limit=None)
    first = mean_of(squares_of_each(net, one.plain, one.targets))
    strategy.after_task(net, samples_of(one))
    later = Ewc(
        moved(net), loss(), task=LATER, seed=SEED, strength=8.0, decay=0.6, labels="true", samples=None, limit=None, past=strategy.carried()
    )
    same(later.fisher, first)
    second = mean_of(squares_of_each(net, other.plain, other.targets))
    anchor = {name: value.detach().clone() for name, value in net.named_parameters()}
    later.after_task(net, samples_of(other))
    both = {name: second[name] + 0.6 * first[name] for name in first}
    same(later.fisher, both)
    moved(net).eval()
    came = batch(3, low=3)
    terms = later(came)
    with torch.no_grad():
        labels = CE * cross_entropy(net(came.inputs).logits, came.targets)
    assert terms.parts["held"].item() == pytest.approx(8.0 * held(net, both, anchor), rel=1e-9)
    assert terms.loss.item() == pytest.approx(labels + 8.0 * held(net, both, anchor), rel=1e-9)


def test_the_first_task_and_a_strength_of_zero_are_fine_tuning():
    net, came = student().eval(), batch(1)
    assert list(Ewc(net, loss(), task=FIRST)(came).parts) == ["ce"]
    strategy = Ewc(net, loss(), task=FIRST, strength=0.0)
    strategy.after_task(net, samples_of(came))
    assert list(strategy(came).parts) == ["ce"]


def test_right_after_a_task_nothing_is_held_back():
    net, came = student().eval(), batch(1)
    strategy = Ewc(net, loss(), task=FIRST)
    strategy.after_task(net, samples_of(came))
    assert strategy.penalty().item() == 0


def test_what_a_task_carries_over_is_no_view_of_the_weights():
    net = student()
    strategy = Ewc(net, loss(), task=FIRST)
    strategy.after_task(net, samples_of(batch(1)))
    before = {name: value.clone() for name, value in strategy.carried().items()}
    moved(net)
    assert all(torch.equal(value, before[name]) for name, value in strategy.carried().items())
    assert {name.partition(".")[0] for name in before} == {"fisher", "anchor"}


def test_new_outputs_of_a_head_are_held_nowhere():
    net = student(classes=3)
    strategy = Ewc(net, loss(), task=FIRST, samples=None)
    strategy.after_task(net, samples_of(batch(1, 18, high=3)))
    wide = student(classes=5)
    grown = Ewc(wide, loss(), task=LATER, past=strategy.carried())
    assert grown.fisher["net.3.weight"].shape == (5, 7)
    assert torch.equal(grown.fisher["net.3.weight"][:3], strategy.fisher["net.3.weight"])
    assert not grown.fisher["net.3.weight"][3:].any()
    before = grown.penalty().item()
    with torch.no_grad():
        wide.net[3].weight[3:] += 5
        wide.net[3].bias[3:] += 5
    assert grown.penalty().item() == before


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"strength": -1.0}, "strength"),
        ({"decay": 1.5}, "decay"),
        ({"labels": "drawn"}, "labels=drawn must be one of model, true"),
        ({"samples": 0}, "samples=0 must be >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(named, words):
    with pytest.raises(ValueError, match=words):
        Ewc(student(), loss(), task=FIRST, **named)
