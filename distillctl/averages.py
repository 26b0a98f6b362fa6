"""An exponential moving average of a model's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def warmed_up(decay: float, updates: Any) -> Any:
    """The decay of an average's update: early on it follows faster, as its own past is short: at most (1 + n) / (10 + n).

    updates: how many there are with this one, as a number or counted on a device, where nothing waits for it.
    """
    most = (1 + updates) / (10 + updates)
    return torch.clamp(most, max=decay) if isinstance(most, Tensor) else min(decay, most)


@torch.no_grad()
def follow(average: Mapping[str, Tensor], now: Mapping[str, Tensor], decay: float | Tensor) -> None:
    """average = decay · average + (1 - decay) · now, in place; what does not average, as the counts of a batch norm, is copied."""
    averaged = [name for name, value in average.items() if value.is_floating_point()]
    share = 1 - decay
    if isinstance(share, Tensor):
        for name in averaged:
            average[name].lerp_(now[name], share.to(average[name].dtype))
    else:
        torch._foreach_lerp_([average[name] for name in averaged], [now[name] for name in averaged], share)
    for name, value in average.items():
        if not value.is_floating_point():
            value.copy_(now[name])
