"""What becomes of a net's widths when channels are cut: edits that only ever make a net smaller, and how they are found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from distillctl.models.change import Change, quoted, sizes_of

NARROW = """

def narrow(net, path, sizes, shapes):
    part = net.get_submodule(path)
    for name, size in sizes.items():
        setattr(part, name, size)
    for name, shape in shapes.items():
        old = getattr(part, name)
        if old is not None:
            new = old.detach()[tuple(map(slice, shape))].clone()
            setattr(part, name, torch.nn.Parameter(new) if isinstance(old, torch.nn.Parameter) else new)
"""

Sizes = dict[str, "int | tuple[int, ...]"]
Shapes = dict[str, tuple[int, ...]]


class Narrower(Change):
    """A module of smaller sizes: the first channels of the old one, until the record's weights are loaded.

    No size and no side of a tensor may grow, so a net that is edited so never takes more memory than it did, whoever wrote the edit.
    """

    needs = NARROW

    @abstractmethod
    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        """Its attributes, and the first sides of its tensors, as they are afterwards. Raises TypeError for another kind of module."""

    def apply(self, part: nn.Module) -> nn.Module:
        sizes, shapes = self.becomes(part)
        for name, size in sizes.items():
            check_smaller(size, getattr(part, name))
        for name, shape in shapes.items():
            if getattr(part, name) is not None:
                check_smaller(shape, tuple(getattr(part, name).shape[: len(shape)]))
        for name, size in sizes.items():
            setattr(part, name, size)
        for name, shape in shapes.items():
            cut_tensor(part, name, shape)
        return part

    def source(self, module: nn.Module, path: str) -> str:
        return narrowed(path, *self.becomes(module.get_submodule(path)))


@dataclass(frozen=True)
class Channels(Narrower):
    """A convolution of so many channels out and in, in so many groups."""

    channels: int
    channels_in: int
    groups: int

    name = "channels"

    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        if (
            not isinstance(part, _ConvNd)
            or isinstance(part, _ConvTransposeNd)
            or self.channels % self.groups
            or self.channels_in % self.groups
        ):
            raise TypeError(f"{type(part).__name__} is no convolution of {self.groups} groups")
        sizes: Sizes = {"out_channels": self.channels, "in_channels": self.channels_in, "groups": self.groups}
        return sizes, {"weight": (self.channels, self.channels_in // self.groups), "bias": (self.channels,)}


@dataclass(frozen=True)
class Features(Narrower):
    """A linear layer of so many features out and in."""

    features: int
    features_in: int

    name = "features"

    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        if not isinstance(part, nn.Linear):
            raise TypeError(f"{type(part).__name__} is no linear layer")
        sizes: Sizes = {"out_features": self.features, "in_features": self.features_in}
        return sizes, {"weight": (self.features, self.features_in), "bias": (self.features,)}


@dataclass(frozen=True)
class Inputs(Narrower):
    """A convolution in one group or a linear layer that sees so many channels, and gives as many as before: a classifier of any classes."""

    channels_in: int

    name = "inputs"

    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        sees: Shapes = {"weight": (part.weight.shape[0], self.channels_in)} if isinstance(part, (nn.Linear, _ConvNd)) else {}
        if isinstance(part, nn.Linear):
            return {"in_features": self.channels_in}, sees
        if not isinstance(part, _ConvNd) or isinstance(part, _ConvTransposeNd) or part.groups != 1:
            raise TypeError(f"{type(part).__name__} is neither a linear layer nor a convolution in one group")
        return {"in_channels": self.channels_in}, sees


@dataclass(frozen=True)
class Normed(Narrower):
    """A normalisation of so many channels."""

    channels: int

    name = "norm"

    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        shapes: Shapes = {"weight": (self.channels,), "bias": (self.channels,)}
        if isinstance(part, _NormBase):
            return {"num_features": self.channels}, {**shapes, "running_mean": (self.channels,), "running_var": (self.channels,)}
        if isinstance(part, nn.GroupNorm) and self.channels % part.num_groups == 0:
            return {"num_channels": self.channels}, shapes
        if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            return {"normalized_shape": (self.channels,)}, shapes
        raise TypeError(f"{type(part).__name__} is no normalisation of {self.channels} channels")


@dataclass(frozen=True)
class Heads(Narrower):
    """An attention of so many heads, each as wide as before; its linear layers have edits of their own."""

    heads: int

    name = "heads"

    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        if not is_attention(part):
            raise TypeError(f"{type(part).__name__} has no heads that can be cut")
        return {"num_heads": self.heads, "attn_dim": self.heads * int(part.head_dim)}, {}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shape(Narrower):
    """A tensor of the net's own beside its layers, such as a scale of each channel; the edit's path names the tensor."""

    sides: tuple[int, ...]

    name = "shape"

    @classmethod
    def read(cls, became: str) -> Change | None:
        sides = sizes_of(became, cls.name)
        return cls(sides) if sides else None

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.sides

    def becomes(self, part: nn.Module) -> tuple[Sizes, Shapes]:
        raise TypeError("a shape is of a tensor, not of a module")

    def do(self, module: nn.Module, path: str) -> None:
        place, _, name = path.rpartition(".")
        part = module.get_submodule(place)
        if name not in part._parameters and name not in part._buffers:
            raise AttributeError(f"{name} is no tensor")
        check_smaller(self.sides, tuple(getattr(part, name).shape))
        cut_tensor(part, name, self.sides)

    def source(self, module: nn.Module, path: str) -> str:
        place, _, name = path.rpartition(".")
        return narrowed(place, {}, {name: self.sides})


PRUNED: tuple[type[Change], ...] = (Channels, Features, Inputs, Normed, Heads, Shape)


def widths(module: nn.Module) -> dict[str, tuple[Change, ...]]:
    """How every module and every tensor beside modules would be spelled, by its path: those that say most come last."""
    found: dict[str, tuple[Change, ...]] = {}
    for path, part in module.named_modules():
        spelled = spelled_width(part)
        if spelled:
            found[path] = spelled
        if is_attention(part):
            found[path] = (Heads(int(part.num_heads)),)
        if not spelled:
            tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
            found |= {f"{path}.{name}".lstrip("."): (Shape(tuple(tensor.shape)),) for name, tensor in tensors}
    return found


def spelled_width(part: nn.Module) -> tuple[Change, ...]:
    """Of one layer: the edit that says all of its sizes, behind that of its inputs alone where there is one; nothing of other modules."""
    if isinstance(part, _ConvNd) and not isinstance(part, _ConvTransposeNd):
        whole = Channels(part.out_channels, part.in_channels, part.groups)
        return (Inputs(part.in_channels), whole) if part.groups == 1 else (whole,)
    if type(part) is nn.Linear or (isinstance(part, nn.Linear) and not any(True for _ in part.children())):
        return Inputs(part.in_features), Features(part.out_features, part.in_features)
    if isinstance(part, _NormBase):
        return (Normed(part.num_features),)
    if isinstance(part, nn.GroupNorm):
        return (Normed(part.num_channels),)
    if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
        return (Normed(part.normalized_shape[0]),)
    return ()


def narrowings(before: Mapping[str, tuple[Change, ...]], after: Mapping[str, tuple[Change, ...]]) -> list[tuple[str, str]]:
    """The edits, as (path, spelling), that make `widths` before those after; a layer that gives as much as before is spelled by its inputs."""
    found = []
    for path, now in after.items():
        then = before.get(path, ())
        if now == then:
            continue
        kept_outputs = len(now) == len(then) == 2 and now[-1].sizes[0] == then[-1].sizes[0]
        found.append((path, str(now[0] if kept_outputs else now[-1])))
    return found


def is_attention(part: nn.Module) -> bool:
    """Whether it is timm's plain attention: one linear layer to queries, keys and values, heads side by side in each, and one behind them.

    By its attributes, as timm need not be there; what its forward pass does with them is that of `timm.layers.attention.Attention`.
    """
    names = [kind.__module__ for kind in type(part).__mro__ if kind.__name__ == "Attention"]
    if not any(name.startswith("timm.layers.attention") for name in names):
        return False
    sizes = [getattr(part, name, None) for name in ("num_heads", "head_dim", "attn_dim")]
    return all(isinstance(size, int) for size in sizes) and getattr(part, "gate", None) is None and isinstance(part.norm, nn.Identity)


def check_smaller(now: int | tuple[int, ...], then: object) -> None:
    """Raises ValueError where a size is larger than it was, or another kind of thing."""
    ours, theirs = (now,) if isinstance(now, int) else now, (then,) if isinstance(then, int) else then
    if not isinstance(theirs, tuple) or len(ours) != len(theirs) or any(a > b for a, b in zip(ours, theirs, strict=True)):
        raise ValueError(f"{then} cannot become {now}")


def cut_tensor(part: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Keep the first of each side of a parameter or buffer; one that is None stays so."""
    old: Tensor | None = getattr(part, name)
    if old is None or tuple(old.shape[: len(shape)]) == shape:
        return
    new = old.detach()[tuple(map(slice, shape))].clone(memory_format=torch.contiguous_format)
    setattr(part, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)


def narrowed(path: str, sizes: Sizes, shapes: Shapes) -> str:
    """A line of the loading script."""
    return f"    narrow(net, {quoted(path)}, {sizes!r}, {shapes!r})"
