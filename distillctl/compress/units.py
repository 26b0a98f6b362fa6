"""What can be cut from a net: units (channels, heads of attention) in groups that depend on each other, and what each unit costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from distillctl.modes import evaluating
from distillctl.types import Inputs


@dataclass
class Layer:
    """What a layer multiplies for one sample. Both its sides have widths, and its cost goes with their product."""

    macs: int
    out: int
    into: int | None  # None where the cost goes with the outputs alone: a convolution of each channel by itself, attention


@dataclass
class Group:
    """Units that are cut alike in all layers they go through.

    importance: of each unit, [U]. reach: for each layer, whether the units are its outputs, and to which unit each channel there belongs.
    cut: removes the units at these positions from the net, once. wants_scope_of: groups are compared with those of the same kind alone.
    """

    name: str
    importance: Tensor
    reach: list[tuple[Layer, bool, Tensor]]
    cut: Callable[[Sequence[int]], None]
    kind: str = "channels"
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.importance = self.importance.detach().double().cpu()
        self.width = len(self.importance)


def layers_of(module: nn.Module, sample: Inputs) -> dict[nn.Module, Layer]:
    """Convolutions and linear layers, with their multiply-accumulates in one pass of one sample."""
    found: dict[nn.Module, Layer] = {}

    def look(part: nn.Module, _: Any, answer: Any) -> None:
        if isinstance(part, _ConvNd) and isinstance(answer, Tensor):
            alone = part.groups > 1 and part.groups == part.in_channels
            macs, out, into = (
                answer.numel() // part.out_channels * part.weight.numel(),
                part.out_channels,
                None if alone else part.in_channels,
            )
        elif isinstance(part, nn.Linear) and isinstance(answer, Tensor):
            macs, out, into = answer.numel() // part.out_features * part.weight.numel(), part.out_features, part.in_features
        else:
            return
        found[part] = Layer(macs + (found[part].macs if part in found else 0), out, into)

    handles = [part.register_forward_hook(look) for part in module.modules() if isinstance(part, (_ConvNd, nn.Linear))]
    try:
        with torch.no_grad(), evaluating(module):
            module(sample)
    finally:
        for handle in handles:
            handle.remove()
    return found


def saved(groups: Iterable[Group], chosen: Iterable[Sequence[int]]) -> int:
    """The multiply-accumulates that are gone once the chosen units of each group are cut."""
    lost: dict[int, list[Any]] = {}
    for group, units in zip(groups, chosen, strict=True):
        if not len(units):
            continue
        gone = torch.zeros(group.width, dtype=torch.bool)
        gone[list(units)] = True
        for layer, is_out, owners in group.reach:
            entry = lost.setdefault(id(layer), [layer, 0, 0])
            entry[1 if is_out else 2] += int(gone[owners].sum())
    left = 0.0
    for layer, out, into in lost.values():
        stays = max(layer.out - out, 0) / layer.out
        if layer.into is not None:
            stays *= max(layer.into - into, 0) / layer.into
        left += layer.macs * (1 - stays)
    return round(left)


def choose(groups: Sequence[Group], ratio: float, scope: str) -> list[list[int]]:
    """The units that go: a share `ratio` of all, least important first, in the whole net or in each group.

    No group loses everything: over the whole net a quarter of what its fair share of units would leave stays, and at least one unit does.
    Heads compete with heads. Ties go by position, so the same weights always give the same choice.
    """
    if scope == "layer":
        return [lowest(group.importance, min(round(ratio * group.width), group.width - 1)) for group in groups]
    chosen: list[list[int]] = [[] for _ in groups]
    for kind in dict.fromkeys(group.kind for group in groups):
        mine = [place for place, group in enumerate(groups) if group.kind == kind]
        allowed = {place: lowest(groups[place].importance, groups[place].width - floor(groups[place].width, ratio)) for place in mine}
        candidates = [(float(groups[place].importance[unit]), place, unit) for place in mine for unit in allowed[place]]
        total = sum(groups[place].width for place in mine)
        for _, place, unit in sorted(candidates)[: round(ratio * total)]:
            chosen[place].append(unit)
    return [sorted(units) for units in chosen]


def floor(width: int, ratio: float) -> int:
    return max(1, round(width * (1 - ratio) / 4))


def lowest(importance: Tensor, count: int) -> list[int]:
    order: list[int] = torch.argsort(importance, stable=True)[:count].tolist()
    return sorted(order)
