"""Channels that depend on each other, as torch-pruning finds them by the graph of one forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from distillctl.compress.units import Group, Layer
from distillctl.errors import ConfigError, MachineError, first_line
from distillctl.models.logits import logits_of
from distillctl.models.pruned import is_attention, spelled_width
from distillctl.types import Inputs

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")


def require_torch_pruning() -> None:
    """Raises MachineError where it is not installed."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        raise MachineError("prune=magnitude, taylor and bn_scale need torch-pruning: pip install 'distillctl[prune]'") from None


def channel_groups(
    module: nn.Module, sample: Inputs, name: str, judge: Callable[[Any], Tensor | None], layers: dict[nn.Module, Layer]
) -> list[Group]:
    """Every group of channels that can go: none that the answer, attention or a kind of layer without edits depends on.

    Raises ConfigError where torch-pruning cannot follow the net.
    """
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
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
        importance = judge(group)
        if importance is None:
            continue
        repeats = repeats_of(graph, group)
        if len(importance) % repeats == 0:
            found.append(as_units(graph, group, importance, repeats, layers))
    return found


def groups_in(graph: Any, kept: Sequence[nn.Module]) -> Iterator[Any]:
    """The graph's groups, whole; a group that changes a layer we keep, or that names some channel twice, is none of them."""
    frozen = set(map(id, kept))
    for group in graph.get_all_groups(ignored_layers=list(kept), root_module_types=[_ConvNd, nn.Linear]):
        plain = True
        for place, (dependency, _) in enumerate(group):
            target, roots = dependency.target.module, group[place].root_idxs
            touches = graph.is_out_channel_pruning_fn(dependency.handler) and id(target) in frozen
            plain = plain and not touches and all(root is not None for root in roots)
        if plain:
            yield group


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


def repeats_of(graph: Any, group: Any) -> int:
    """How many groups of a layer the channels lie in side by side, all of which have to lose as many."""
    found = [1]
    for dependency, _ in group:
        part = dependency.target.module
        if isinstance(part, _ConvNd) and part.groups > 1 and part.groups != part.out_channels:
            found.append(part.groups)
        if isinstance(part, nn.GroupNorm):
            found.append(part.num_groups)
    return max(found)


def untouched(module: nn.Module) -> list[nn.Module]:
    """Layers whose outputs stay: those of attention, and kinds that no edit can spell."""
    kept: list[nn.Module] = []
    for part in module.modules():
        if (
            is_attention(part)
            or isinstance(part, nn.MultiheadAttention)
            or any(isinstance(getattr(part, each, None), int) for each in HEADS)
        ):
            kept += part.modules()
        own = any(True for _ in part.parameters(recurse=False))
        if own and (isinstance(part, _ConvTransposeNd) or not spelled_width(part)) and not any(True for _ in part.children()):
            kept.append(part)
    return kept


def answering(graph: Any) -> list[nn.Module]:
    """The layers whose outputs the logits are made of."""
    ends = [node for node in graph.module2node.values() if not node.outputs]
    found, seen = [], set()
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
