"""Read features out of a net by name, without touching the net: hooks on modules, and short names for the usual places."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distillctl.errors import ConfigError, did_you_mean
from distillctl.models.fitting import head_names
from distillctl.models.trace import Example, Seen, trace

STAGES = 4  # the last four resolutions of a net, or quarters of its blocks, are stage1 to stage4
LOGITS = "logits"  # always there, without a hook


@dataclass(frozen=True)
class TapPoint:
    """Where a tap sits: what goes into a module, or what comes out of it."""

    module: str
    side: str  # "output" or "input"
    last_is_channels: bool = False  # maps [B, H, W, C], as some transformers have them


class Taps:
    """Catches features while a net runs. Each pass must be followed by `collect`."""

    def __init__(self, points: dict[str, TapPoint]):
        self.points = points
        self.caught: dict[str, Tensor] = {}

    def attach(self, net: nn.Module) -> Taps:
        for name, point in self.points.items():
            catch = Catch(self, name, point.last_is_channels)
            module = net.get_submodule(point.module)
            if point.side == "input":
                module.register_forward_pre_hook(catch.before)
            else:
                module.register_forward_hook(catch.after)
        return self

    def collect(self) -> dict[str, Tensor]:
        """What was caught in the last pass; a vector where the tap is before the classifier."""
        found, self.caught = self.caught, {}
        return found


class Catch:
    """One hook. An object with methods and no closure, so that a deep copy of the net catches for the copy."""

    def __init__(self, taps: Taps, name: str, last_is_channels: bool):
        self.taps, self.name, self.last_is_channels = taps, name, last_is_channels

    def after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        values = output[0] if isinstance(output, (tuple, list)) else output
        self.taps.caught[self.name] = values.permute(0, 3, 1, 2) if self.last_is_channels else values

    def before(self, module: nn.Module, inputs: Any) -> None:
        values = inputs[0]
        self.taps.caught[self.name] = values.mean((2, 3)) if values.ndim == 4 else values


def tap(net: nn.Module, names: Iterable[str], example: Example, key: str) -> Taps:
    """Hooks for `names`: paths of modules, or short names. Raises ConfigError with the nearest names for one that is neither."""
    wanted = [name for name in dict.fromkeys(names) if name != LOGITS]
    known = short_names(net, example) if wanted else {}
    modules = {name for name, _ in net.named_modules() if name}
    outputs = dict(shapes(net, example)) if modules & set(wanted) else {}
    points = {}
    for name in wanted:
        if name in known:
            points[name] = known[name]
        elif name in modules:
            points[name] = output_of(name, outputs.get(name, ()))
        else:
            choices = [*known, LOGITS, *modules]
            short = f"Short names: {', '.join(known)}, {LOGITS}; for all: distillctl models taps=<its name>"
            raise ConfigError(f"{key}: it has no tap {name!r}; {did_you_mean(name, choices)} {short}")
    return Taps(points).attach(net)


def short_names(net: nn.Module, example: Example) -> dict[str, TapPoint]:
    """stage1 to stage4, last and pooled: the end of each resolution (or of each quarter of the blocks), and what the classifier sees."""
    calls, _ = trace(net, example, leaves=False)
    # attention weights [B, heads, T, T] look like maps, and show where they are dropped or normalised
    seen = [call for call in calls if not isinstance(net.get_submodule(call.module), (nn.Dropout, nn.Softmax))]
    outputs = {call.module: call.outputs for call in seen}
    named = [name for name, _ in net.named_children() if re.fullmatch(r"stage\d", name)]
    ends = named if named and all(name in outputs for name in named) else stage_ends(seen)  # some stages give several maps at once
    points = {f"stage{number + 1}": output_of(module, outputs[module]) for number, module in enumerate(ends)}
    if ends:
        points["last"] = output_of(ends[-1], outputs[ends[-1]])
    head = head_names(net)
    if head:
        points["pooled"] = TapPoint(head[0].rpartition(".")[0], "input")
    return points


def output_of(module: str, shape: tuple[int, ...]) -> TapPoint:
    return TapPoint(module, "output", last_is_channels=map_size(shape) is not None and shape[1] == shape[2])


def stage_ends(seen: list[Seen]) -> list[str]:
    """The last module at each of the last resolutions, of those nearest to the surface: a block, rather than a layer of the next one."""
    at: dict[int, list[str]] = {}
    for call in seen:
        size = map_size(call.outputs)
        if call.module and size is not None and (size in at or size < min(at, default=size + 1)):  # never up again
            at.setdefault(size, []).append(call.module)
    depth = max((min(module.count(".") for module in modules) for modules in at.values()), default=0)
    ends = [[module for module in modules if module.count(".") <= depth][-1] for modules in at.values()]
    blocks = [call.module for call in seen if len(call.outputs) == 3 and re.fullmatch(r"[a-z_]+(\.[a-z_]+)*\.(\w*_)?\d+", call.module)]
    if len(ends) < 2 and len(blocks) >= STAGES:  # a transformer: one resolution, and blocks that are alike
        return [blocks[math.ceil(len(blocks) * quarter / STAGES) - 1] for quarter in range(1, STAGES + 1)]
    return ends[-STAGES:]


def map_size(shape: tuple[int, ...]) -> int | None:
    """Height of a square map [B, C, S, S] or [B, S, S, C] of more than one position; None for other shapes."""
    if len(shape) != 4:
        return None
    if shape[2] == shape[3] > 1:
        return shape[2]
    return shape[1] if shape[1] == shape[2] > 1 else None


def shapes(net: nn.Module, example: Example) -> list[tuple[str, tuple[int, ...]]]:
    """Every module that can be tapped, with the shape of its output for one sample."""
    seen, _ = trace(net, example, leaves=False)
    return [(call.module, call.outputs) for call in seen if call.module]


def tapped_shapes(net: nn.Module, example: Example) -> list[tuple[str, tuple[int, ...]]]:
    """The same as a tap gives it: with the channels of a map in front."""
    found = shapes(net, example)
    return [(path, (shape[0], shape[3], *shape[1:3]) if output_of(path, shape).last_is_channels else shape) for path, shape in found]


def short_shapes(net: nn.Module, example: Example) -> list[tuple[str, TapPoint, tuple[int, ...]]]:
    """Every short name but `logits`, its point, and the shape of what is caught there of one sample. Leaves its hooks in the net."""
    known = short_names(net, example)
    taps = Taps(known).attach(net)
    trace(net, example, leaves=False)
    caught = taps.collect()
    return [(name, point, tuple(caught[name].shape)) for name, point in known.items()]
