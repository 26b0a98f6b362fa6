"""Channels that depend on each other, as torch-pruning finds them by the graph of one forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from distillctl import extras
from distillctl.compress.units import Group, Layer
from distillctl.errors import ConfigError, MachineError, first_line
from distillctl.models.logits import logits_of
from distillctl.models.pruned import spelled_width
from distillctl.types import Inputs

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")


def require_torch_pruning() -> None:
    """Raises MachineError where it is not installed."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        raise MachineError(f"prune=magnitude, taylor and bn_scale need torch-pruning: {extras.pip_line('prune')}") from None


def channel_groups(
    module: nn.Module, sample: Inputs, name: str, judge: Callable[[Any], Tensor | None], layers: dict[nn.Module, Layer]
) -> list[Group]:
    """Every group of channels that can go: none that the answer, attention or a kind of layer without edits depends on.

    Raises ConfigError where torch-pruning cannot follow the net.
    """
    graph = new_graph()
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph.build_dependency(module, sample, forward_fn=lambda net, inputs: net(inputs), output_transform=logits_of, verbose=False)
    except Exception as error:  # there are as many ways not to be traced as there are nets
        raise ConfigError(
            f"prune: torch-pruning cannot follow {name} ({first_line(error)[:200]}); take another student, or prune=unstructured"
        ) from None
    kept = [*untouched(module), *answering(graph)]
    found = []
    for group in groups_in(graph, kept):
        width, repeats = len(group[0].idxs), max((parts for _, parts, _ in grouped(group)), default=1)
        if is_aligned(group, width, repeats) and is_closed(graph, group, width, repeats):
            importance = judged(judge, group)
            if importance is not None and len(importance) == width:
                found.append(as_units(graph, group, importance, repeats, layers))
    return found


def judged(judge: Callable[[Any], Tensor | None], group: Any) -> Tensor | None:
    """The importance of a group's channels; None where torch-pruning counts them by a layer that has others, as behind some concatenations."""
    try:
        return judge(group)
    except (IndexError, RuntimeError):
        return None


def new_graph() -> Any:
    """A graph of torch-pruning that does not look through splits, slices, and reshapes of more than four sides.

    It takes a shuffle of channels or the windows of attention for a flattening and mixes the channels up, or fails, and loses count behind a
    split. Here such a place has the widths that it has, and what touches it stays (`is_plain`).
    """
    import torch_pruning
    from torch_pruning.ops import OPTYPE

    class Graph(torch_pruning.DependencyGraph):
        def _trace(self, *args: Any, **kwargs: Any) -> Any:
            nodes = super()._trace(*args, **kwargs)
            self.opaque: dict[int, tuple[int | None, int | None]] = {}
            for node in nodes.values():
                before, behind = shapes_at(node.grad_fn)
                many = max(map(len, (*before, *behind)), default=0) > 4
                if node.type in (OPTYPE.SPLIT, OPTYPE.SLICE, OPTYPE.UNBIND) or (node.type == OPTYPE.RESHAPE and many):
                    node.type = OPTYPE.ELEMENTWISE
                    self.opaque[id(node)] = width_of(before), width_of(behind)
            return nodes

        def build_dependency(self, *args: Any, **kwargs: Any) -> Any:
            super().build_dependency(*args, **kwargs)
            for node in self.module2node.values():
                if not self.looks_through(node):
                    node.dependencies.clear()  # a search ends here; in circles it would never
            return self

        def get_in_channels(self, module_or_node: Any) -> Any:
            return self.opaque[id(module_or_node)][0] if id(module_or_node) in self.opaque else super().get_in_channels(module_or_node)

        def get_out_channels(self, module_or_node: Any) -> Any:
            return self.opaque[id(module_or_node)][1] if id(module_or_node) in self.opaque else super().get_out_channels(module_or_node)

        def looks_through(self, node: Any) -> bool:
            """Whether channels before and behind this place are told apart: not where it does not know the parts of a concatenation either."""
            return id(node) not in self.opaque and (node.type != OPTYPE.CONCAT or node.module.offsets is not None)

    return Graph()


def shapes_at(step: Any) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The shapes before and behind one step of a forward pass, as far as its gradient remembers them."""
    before = getattr(step, "_saved_self_sym_sizes", None)
    return [tuple(before)] if before is not None else [], [tuple(each.shape) for each in getattr(step, "_input_metadata", ())]


def width_of(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The channels of maps [B, C, H, W] or tokens [B, T, C], where all have as many."""
    found = {shape[1] if len(shape) == 4 else shape[-1] for shape in shapes if len(shape) > 1}
    return found.pop() if len(found) == 1 else None


def groups_in(graph: Any, kept: Sequence[nn.Module]) -> Iterator[Any]:
    """The graph's groups, whole. None that changes a layer we keep, goes through what the graph does not look through, or is not what it should be."""
    frozen = set(map(id, kept))
    for group in graph.get_all_groups(ignored_layers=list(kept), root_module_types=[_ConvNd, nn.Linear]):
        if all(is_plain(graph, dependency, channels, group[place].root_idxs, frozen) for place, (dependency, channels) in enumerate(group)):
            yield group


def is_plain(graph: Any, dependency: Any, channels: Sequence[int], roots: Sequence[int | None], frozen: set[int]) -> bool:
    """Whether one layer of a group can be cut: it has all these channels, and each belongs to one of the root's."""
    target, part = dependency.target, dependency.target.module
    gives = graph.is_out_channel_pruning_fn(dependency.handler)
    if not graph.looks_through(target) or (gives and id(part) in frozen) or None in roots:
        return False
    if isinstance(part, _ConvNd) and 1 < part.groups == part.in_channels != part.out_channels:
        return False  # torch-pruning takes it for a convolution in groups of one channel, and miscounts them
    width = graph.get_out_channels(target) if gives else graph.get_in_channels(target)
    return width is None or max(channels, default=0) < width


def as_units(graph: Any, group: Any, importance: Tensor, repeats: int, layers: dict[nn.Module, Layer]) -> Group:
    """Channels at the same place of each of `repeats` groups of a layer are one unit."""
    size = len(importance) // repeats
    root, handler = group[0].dep.target.module, group[0].dep.handler
    reach = []
    for place, (dependency, _) in enumerate(group):
        layer = layers.get(dependency.target.module)
        if layer is not None:
            owners = torch.tensor(group[place].root_idxs, dtype=torch.long) % size
            reach.append((layer, graph.is_out_channel_pruning_fn(dependency.handler), owners))

    def cut(units: Sequence[int]) -> None:
        channels = [unit + repeat * size for repeat in range(repeats) for unit in units]
        graph.get_pruning_group(root, handler, channels).prune(record_history=False)

    return Group(graph._module2name[root], importance.view(repeats, size).mean(0), reach, cut)


def grouped(group: Any) -> Iterator[tuple[int, int, int]]:
    """Layers of a group whose channels lie in parts side by side, all of which have to lose as many: place, parts and channels."""
    for place, (dependency, _) in enumerate(group):
        part = dependency.target.module
        if isinstance(part, _ConvNd) and part.groups > 1 and part.groups != part.out_channels:
            is_input = dependency.handler.__name__ == "prune_in_channels"
            yield place, part.groups, part.in_channels if is_input else part.out_channels
        if isinstance(part, nn.GroupNorm):
            yield place, part.num_groups, part.num_channels


def is_aligned(group: Any, width: int, repeats: int) -> bool:
    """Whether the same cut in each of `repeats` parts of the root takes as many channels from every part of every layer."""
    if width % repeats:
        return False
    for place, parts, channels in grouped(group):
        if repeats % parts:
            return False
        pairs = zip(group[place].idxs, group[place].root_idxs, strict=True)
        if any(channel // (channels // parts) != root // (width // repeats) // (repeats // parts) for channel, root in pairs):
            return False
    return True


def is_closed(graph: Any, group: Any, width: int, repeats: int) -> bool:
    """Whether units take no others along: where channels are joined to copies of themselves they do, and little would be left in the end."""
    size = width // repeats
    for unit in (0, size // 2):
        channels = list(range(unit, width, size))
        alone = graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, channels)
        taken = {(id(dep.target), dep.handler.__name__): sorted(found) for dep, found in alone}
        for place, (dep, found) in enumerate(group):
            own = sorted(channel for channel, root in zip(found, group[place].root_idxs, strict=True) if root % size == unit)
            if taken.get((id(dep.target), dep.handler.__name__), []) != own:
                return False
    return True


def untouched(module: nn.Module) -> list[nn.Module]:
    """Layers whose outputs stay: those of attention, and kinds that no edit can spell."""
    kept: list[nn.Module] = []
    for _, part in attentions(module):
        kept += part.modules()
    for part in module.modules():
        own = any(True for _ in part.parameters(recurse=False))
        if own and not spelled_width(part) and not any(True for _ in part.children()):
            kept.append(part)
    return kept


def attentions(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules that have heads and hold no others that do."""
    having = [(path, part) for path, part in module.named_modules() if has_heads(part)]
    return [(path, part) for path, part in having if not any(each is not part and has_heads(each) for each in part.modules())]


def has_heads(part: nn.Module) -> bool:
    return isinstance(part, nn.MultiheadAttention) or any(isinstance(getattr(part, each, None), int) for each in HEADS)


def answering(graph: Any) -> list[nn.Module]:
    """The layers whose outputs the logits are made of."""
    ends = [node for node in graph.module2node.values() if not node.outputs]
    found: list[nn.Module] = []
    seen: set[int] = set()
    while ends:
        node = ends.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node.module, (_ConvNd, nn.Linear)):
            found.append(node.module)
        else:
            ends += node.inputs
    return found
