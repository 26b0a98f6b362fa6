"""Read features out of a net by name, without touching the net: hooks on modules, and short names for the usual places."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.errors import ConfigError, did_you_mean
from distillctl.models.fitting import head_names
from distillctl.models.layers import KINDS, layers_of, named_point, pretrained, short_points
from distillctl.models.points import Stack, TapPoint
from distillctl.models.trace import Example, Seen, trace

STAGES = 4  # the last four resolutions of a net, or quarters of its blocks, are stage1 to stage4
LOGITS = "logits"  # always there, without a hook
WITHOUT_LAYERS = "take a loss on logits, or on pooled"


class Taps:
    """Catches features while a net runs. Each pass must be followed by `collect`."""

    def __init__(self, points: Mapping[str, TapPoint | Stack]):
        self.points = dict(points)
        self.caught: dict[str, Tensor] = {}

    def attach(self, net: nn.Module) -> Taps:
        for name, point in self.points.items():
            for part, place in parts_of(name, point).items():
                catch, module = Catch(self, part, place), net.get_submodule(place.module)
                if place.side == "input":
                    module.register_forward_pre_hook(catch.before, with_kwargs=True)
                else:
                    module.register_forward_hook(catch.after)
        return self

    def collect(self) -> dict[str, Tensor]:
        """What was caught in the last pass; a vector where the tap is before the classifier, layers side by side where they are a stack."""
        found, self.caught = self.caught, {}
        for name, point in self.points.items():
            if isinstance(point, Stack):
                parts = [found.pop(part, None) for part in parts_of(name, point)]
                if all(part is not None for part in parts):
                    found[name] = torch.stack(parts, dim=1)  # type: ignore[arg-type]
        return found


def parts_of(name: str, point: TapPoint | Stack) -> dict[str, TapPoint]:
    """The places of a tap, by what each is called until they are put together; no name that a user gives has a # in it."""
    return {f"{name}#{number}": part for number, part in enumerate(point.points)} if isinstance(point, Stack) else {name: point}


class Catch:
    """One hook. An object with methods and no closure, so that a deep copy of the net catches for the copy."""

    def __init__(self, taps: Taps, name: str, point: TapPoint):
        self.taps, self.name, self.point = taps, name, point

    def after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.taps.caught[self.name] = self.point.formed(first_of(output))

    def before(self, module: nn.Module, inputs: Any, named: Any) -> None:
        values = inputs[0] if inputs else first_of(named)
        self.taps.caught[self.name] = values.mean((2, 3)) if values.ndim == 4 else self.point.formed(values)


def first_of(output: Any) -> Any:
    """A tensor is what is tapped; of a tuple, or of a mapping as transformers have them, the first item."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, (tuple, list)) and output else output


def tap(net: nn.Module, names: Iterable[str], example: Example, key: str) -> Taps:
    """Hooks for `names`: paths of modules, or short names. Raises ConfigError with the nearest names for one that is neither."""
    wanted = [name for name in dict.fromkeys(names) if name != LOGITS]
    known = short_names(net, example) if wanted else {}
    modules = {name for name, _ in net.named_modules() if name}
    outputs = dict(shapes(net, example)) if modules & set(wanted) and pretrained(net) is None else {}  # texts have no maps
    points: dict[str, TapPoint | Stack] = {}
    for name in wanted:
        if name in known:
            points[name] = known[name]
        elif name in modules:
            points[name] = output_of(name, outputs.get(name, ()))
        elif (point := of_layers(net, name, key)) is not None:
            points[name] = point
        else:
            choices = [*known, LOGITS, *modules]
            short = f"Short names: {', '.join(known)}, {LOGITS}; for all: distillctl models taps=<its name>"
            raise ConfigError(f"{key}: it has no tap {name!r}; {did_you_mean(name, choices)} {short}")
    return Taps(points).attach(net)


def of_layers(net: nn.Module, name: str, key: str) -> TapPoint | Stack | None:
    """The place of a tap by the name of what layers of transformers give; None of any other name."""
    if name.partition(".")[0] not in KINDS:
        return None
    try:
        return named_point(layers_of(net), name)
    except ConfigError as error:
        told = str(error)
        raise ConfigError(
            f"{key}: {told}" if told.startswith("tap ") else f"{key}: it has no tap {name!r}: {told}; {WITHOUT_LAYERS}"
        ) from None


def short_names(net: nn.Module, example: Example) -> dict[str, TapPoint | Stack]:
    """stage1 to stage4, last and pooled: the end of each resolution (or of each quarter of the blocks), and what the classifier sees.

    Nets of the transformers library have stacks of all their layers too, as `hidden_states`; `named_point` knows those of one layer.
    """
    points = of_pretrained(net)
    if not points:
        points = of_calls(net, example)
    head = head_names(net)
    if head:
        points["pooled"] = TapPoint(head[0].rpartition(".")[0], "input")
    return points


def of_pretrained(net: nn.Module) -> dict[str, TapPoint | Stack]:
    """Of a net of the transformers library whose layers are known; else empty."""
    if pretrained(net) is None:
        return {}
    try:
        return short_points(layers_of(net))
    except ConfigError:  # whoever asks for a layer is told why; the rest may be found as in any net
        return {}


def of_calls(net: nn.Module, example: Example) -> dict[str, TapPoint | Stack]:
    """Of any net, by the shapes that one sample has on its way."""
    calls, _ = trace(net, example, leaves=False)
    # attention weights [B, heads, T, T] look like maps, and show where they are dropped or normalised
    seen = [call for call in calls if not isinstance(net.get_submodule(call.module), (nn.Dropout, nn.Softmax))]
    outputs = {call.module: call.outputs for call in seen}
    named = [name for name, _ in net.named_children() if re.fullmatch(r"stage\d", name)]
    ends = named if named and all(name in outputs for name in named) else stage_ends(seen)  # some stages give several maps at once
    points: dict[str, TapPoint | Stack] = {f"stage{number + 1}": output_of(module, outputs[module]) for number, module in enumerate(ends)}
    if ends:
        points["last"] = output_of(ends[-1], outputs[ends[-1]])
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


def short_shapes(net: nn.Module, example: Example) -> list[tuple[str, TapPoint | Stack, tuple[int, ...]]]:
    """Every short name but `logits`, its point, and the shape of what is caught there of one sample. Leaves its hooks in the net."""
    known = short_names(net, example)
    taps = Taps(known).attach(net)
    trace(net, example, leaves=False)
    caught = taps.collect()
    return [(name, point, tuple(caught[name].shape)) for name, point in known.items()]
