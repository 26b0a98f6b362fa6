"""Fold batch norm into the convolutions of a graph that was trained for int8, before torchao converts it.

torchao folds too, but as if every eps were 1e-5, and by so many patterns that a net of three convolutions takes seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

aten = torch.ops.aten
Node = Any  # fx.Node, whose arguments may be of many kinds


class Pattern(NamedTuple):
    """What torchao makes of convolution and norm: norm(conv(x, fake(weight * factor)) / factor + bias), factor = gamma / std."""

    norm: Node
    conv: Node
    scaled: Node  # weight * factor
    weight: Node
    bias: Node | None


def fold_norms(graph: fx.GraphModule) -> None:
    """In place, of a graph in eval mode: conv(x, fake(weight * factor)) + (beta + (bias - mean) * factor)."""
    for number, node in enumerate(list(graph.graph.nodes)):
        found = pattern(node)
        if found is None:
            continue
        gamma, beta, mean, variance = (value(graph, part) for part in node.args[1:5])
        factor = gamma / torch.sqrt(variance + node.args[7])
        weight = value(graph, found.weight)
        bias = 0.0 if found.bias is None else value(graph, found.bias)
        with graph.graph.inserting_before(found.scaled):
            found.scaled.replace_all_uses_with(stored(graph, f"folded_weight_{number}", weight * factor.reshape(-1, 1, 1, 1)))
        with graph.graph.inserting_before(found.conv):
            stored_bias = stored(graph, f"folded_bias_{number}", beta + (bias - mean) * factor)
        found.conv.args = (*found.conv.args[:2], stored_bias, *found.conv.args[3:])
        node.replace_all_uses_with(found.conv)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def pattern(norm: Node) -> Pattern | None:
    """The convolution before a batch norm; None for any other node, and for a norm after something else."""
    if norm.target is not aten.batch_norm.default:
        return None
    inner, bias = norm.args[0], None
    if inner.target is aten.add.Tensor:
        inner, bias = inner.args[0], inner.args[1].args[0]  # reshaped to [1, C, 1, 1]
    if inner.target is not aten.div.Tensor or inner.args[0].target not in (aten.conv2d.default, aten.conv2d.padding):
        return None
    conv = inner.args[0]
    scaled = conv.args[1].args[0]
    return Pattern(norm, conv, scaled, scaled.args[0], bias) if scaled.target is aten.mul.Tensor else None


def value(graph: fx.GraphModule, node: Any) -> Tensor:
    """Of a parameter or buffer."""
    found: Any = graph
    for name in node.target.split("."):
        found = getattr(found, name)
    return found.detach()


def stored(graph: fx.GraphModule, name: str, tensor: Tensor) -> Node:
    graph.register_buffer(name, tensor)
    return graph.graph.get_attr(name)
