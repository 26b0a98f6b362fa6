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
    tokens: int = 1  # in a row, of a linear layer on sequences


@dataclass
class Group:
    """Units that are cut alike in all layers they go through.

    importance: of each unit, [U]. reach: for each layer, whether the units are its outputs, and to which unit each channel there belongs.
    cut: removes the units at these positions from the net, once. kind: groups compete with those of the same kind alone.
    """

    name: str
    importance: Tensor
    reach: list[tuple[Layer, bool, Tensor]]
    cut: Callable[[Sequence[int]], None]
    kind: str = "channels"
    width: int = field(init=False)
    order: list[int] = field(init=False)  # the units, the least important first
    needed: frozenset[int] = field(init=False)  # the last ones of a layer that not all units go through

    def __post_init__(self) -> None:
        self.importance = self.importance.detach().double().cpu()
        self.width = len(self.importance)
        self.order = torch.argsort(self.importance, stable=True).tolist()
        rank = torch.empty(self.width, dtype=torch.long)
        rank[self.order] = torch.arange(self.width)
        self.needed = frozenset(self.order[int(rank[owners].max())] for _, _, owners in self.reach if len(owners))

    def lowest(self, count: int) -> list[int]:
        """So many units that may go; fewer where more are needed."""
        return [unit for unit in self.order if unit not in self.needed][: max(count, 0)]


def layers_of(module: nn.Module, sample: Inputs) -> dict[nn.Module, Layer]:
    """Convolutions and linear layers, with their multiply-accumulates in one pass of one sample."""
    found: dict[nn.Module, Layer] = {}

    def look(part: nn.Module, _: Any, answer: Any) -> None:
        if not isinstance(answer, Tensor):
            return
        if isinstance(part, _ConvNd):
            out, into, tokens = part.out_channels, None if part.groups == part.in_channels > 1 else part.in_channels, 1
        else:
            assert isinstance(part, nn.Linear)
            out, into, tokens = part.out_features, part.in_features, answer.shape[-2] if answer.ndim > 2 else 1
        macs = answer.numel() // out * part.weight.numel() + (found[part].macs if part in found else 0)
        found[part] = Layer(macs, out, into, tokens)

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
        return [sorted(group.lowest(min(round(ratio * group.width), group.width - 1))) for group in groups]
    chosen: list[list[int]] = [[] for _ in groups]
    for kind in dict.fromkeys(group.kind for group in groups):
        mine = [(place, group) for place, group in enumerate(groups) if group.kind == kind]
        candidates = []
        for place, group in mine:
            candidates += [(float(group.importance[unit]), place, unit) for unit in group.lowest(group.width - floor(group.width, ratio))]
        for _, place, unit in sorted(candidates)[: round(ratio * sum(group.width for _, group in mine))]:
            chosen[place].append(unit)
    return [sorted(units) for units in chosen]


def floor(width: int, ratio: float) -> int:
    return max(1, round(width * (1 - ratio) / 4))
