"""An average of weights follows them by hand, and the same on the device's count as on a number."""

import pytest
import torch

from distillctl.averages import follow, warmed_up


@pytest.mark.parametrize(("updates", "decay"), [(1, 2 / 11), (8, 0.5), (89, 90 / 99), (10_000, 0.99)])
def test_the_decay_grows_to_what_was_asked_for(updates, decay):
    assert warmed_up(0.99, updates) == decay
    counted = warmed_up(0.99, torch.tensor(updates))
    assert isinstance(counted, torch.Tensor)
    assert counted.item() == pytest.approx(decay, rel=1e-6)


@pytest.mark.parametrize("decay", [0.75, torch.tensor(0.75)])
def test_numbers_are_averaged_and_counts_copied(decay):
    average = {"weight": torch.tensor([0.0, 4.0]), "half": torch.tensor([1.0], dtype=torch.float16), "count": torch.tensor(3)}
    now = {"weight": torch.tensor([8.0, 4.0]), "half": torch.tensor([5.0], dtype=torch.float16), "count": torch.tensor(7)}
    follow(average, now, decay)
    assert average["weight"].tolist() == [2.0, 4.0]
    assert average["half"].tolist() == [2.0]
    assert average["count"].item() == 7
    assert now["weight"].tolist() == [8.0, 4.0]


def test_it_is_bitwise_what_each_tensor_alone_would_be():
    torch.manual_seed(0)
    start = {str(size): torch.randn(size) for size in (1, 7, 64)}
    now = {name: torch.randn_like(value) for name, value in start.items()}
    for decay in (0.3, 0.9, 0.999):
        whole = {name: value.clone() for name, value in start.items()}
        follow(whole, now, decay)
        assert all(torch.equal(whole[name], torch.lerp(start[name], now[name], 1 - decay)) for name in start)
        counted = {name: value.clone() for name, value in start.items()}
        follow(counted, now, torch.tensor(decay))
        assert all(torch.equal(counted[name], torch.lerp(start[name], now[name], 1 - torch.tensor(decay))) for name in start)
