"""What taps on a transformer's layers would give, told by how it is built: zeros of the right shape, without a pass through the net."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.models.layers import KINDS, layers_of, named_point, pretrained
from distillctl.models.points import Stack, TapPoint

TOKENS = 2


def stand_in(net: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Zeros for those of `names` that are of layers, of one text [1, ...] of two tokens. Raises ConfigError as tapping them would."""
    found = {}
    for name in names:
        if name.partition(".")[0] not in KINDS:
            continue
        point = named_point(layers_of(net), name)
        if isinstance(point, Stack):
            found[name] = torch.stack([values_at(net, each) for each in point.points], dim=1)
        elif point is not None:
            found[name] = values_at(net, point)
    return found


def values_at(net: nn.Module, point: TapPoint) -> Tensor:
    return point.formed(torch.zeros(1, TOKENS, width_at(net, point)))


def width_at(net: nn.Module, point: TapPoint) -> int:
    """Of a projection what it gives, of a layer the width of the net."""
    given = getattr(net.get_submodule(point.module), "out_features", None)
    if isinstance(given, int):
        return given
    around = pretrained(net)
    assert around is not None, point
    config: Any = around[1].config
    return int(config.hidden_size)
