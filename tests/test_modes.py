"""Eval mode for a while."""

import pytest
from torch import nn

from distillctl.modes import evaluating


def failing_in_eval_mode(net: nn.Module) -> None:
    with evaluating(net):
        assert not any(part.training for part in net.modules())
        _ = 1 / 0


def test_each_part_gets_its_own_mode_back_whatever_happens():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2)))
    net[1][1].eval()
    before = [part.training for part in net.modules()]
    with pytest.raises(ZeroDivisionError):
        failing_in_eval_mode(net)
    assert [part.training for part in net.modules()] == before == [True, True, True, True, False]
