"""Heads of attention: whole ones go, from queries, keys, values and the layer behind them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distillctl.compress.importance import scaled
from distillctl.compress.units import Group, Layer
from distillctl.models.pruned import is_attention


def head_groups(module: nn.Module, name: str, layers: dict[nn.Module, Layer]) -> list[Group]:
    """A group for each attention of timm's plain kind; `name` is of the importance. A head matters as its queries, keys and values and the
    columns behind them do, in the mean.
    """
    judge = {"magnitude": lambda weight: weight.square(), "taylor": lambda weight: (weight * weight.grad).abs()}.get(name)
    if judge is None:
        return []
    return [group_of(path, part, judge, layers) for path, part in module.named_modules() if is_attention(part) and part.num_heads > 1]


def group_of(path: str, part: nn.Module, judge: Callable[[Tensor], Tensor], layers: dict[nn.Module, Layer]) -> Group:
    heads, width = int(part.num_heads), int(part.head_dim)  # type: ignore[arg-type]
    qkv, projection = part.qkv, part.proj
    assert isinstance(qkv, nn.Linear)
    assert isinstance(projection, nn.Linear)
    with torch.no_grad():
        before = judge(qkv.weight).view(3, heads, -1).mean((0, 2))
        behind = judge(projection.weight).view(-1, heads, width).mean((0, 2))
        importance = scaled(before) + scaled(behind)
    owners = torch.arange(heads).repeat_interleave(width)
    rows = layers[qkv].macs // qkv.weight.numel()
    itself = Layer(2 * rows * layers[qkv].tokens * heads * width, heads, None)  # q k^T and its product with v
    reach = [(layers[qkv], True, owners.repeat(3)), (layers[projection], False, owners), (itself, True, torch.arange(heads))]
    return Group(path, importance, reach, lambda units: cut(part, units), kind="heads")


@torch.no_grad()
def cut(part: nn.Module, units: Sequence[int]) -> None:
    """Remove heads from an attention in place."""
    heads, width = int(part.num_heads), int(part.head_dim)  # type: ignore[arg-type]
    kept = torch.tensor([head for head in range(heads) if head not in set(units)])
    behind = (kept[:, None] * width + torch.arange(width)).flatten()
    before = torch.cat([behind + third * heads * width for third in range(3)])
    qkv, projection = part.qkv, part.proj
    assert isinstance(qkv, nn.Linear)
    assert isinstance(projection, nn.Linear)
    qkv.weight = nn.Parameter(qkv.weight[before.to(qkv.weight.device)].clone())
    if qkv.bias is not None:
        qkv.bias = nn.Parameter(qkv.bias[before.to(qkv.bias.device)].clone())
    projection.weight = nn.Parameter(projection.weight[:, behind.to(projection.weight.device)].clone())
    qkv.out_features, projection.in_features = len(before), len(behind)
    part.num_heads, part.attn_dim = len(kept), len(behind)  # type: ignore[assignment]
