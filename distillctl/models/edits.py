"""What can become of a net's modules, read from how it is spelled and done to a net; what becomes of their widths is in `pruned.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from distillctl.errors import CheckpointError
from distillctl.models.change import Change, convolution, linear, quoted, replaced
from distillctl.models.cosine import Cosine
from distillctl.models.pruned import PRUNED


class Edit(NamedTuple):
    """What became of one module. Plain data: it goes into a JSON file and comes back as a list of two strings."""

    module: str
    became: str  # a Change as it is spelled: "stride 1", "bottleneck 64 128 256"


@dataclass(frozen=True)
class NoStride(Change):
    name = "stride 1"

    def apply(self, part: nn.Module) -> nn.Module:
        convolution(part).stride = (1, 1)
        return part

    def source(self, module: nn.Module, path: str) -> str:
        return f"    net.get_submodule({quoted(path)}).stride = (1, 1)"


@dataclass(frozen=True)
class NoStrideSamePadding(NoStride):
    name = "stride 1, same padding"

    def apply(self, part: nn.Module) -> nn.Module:
        convolution(part).padding = "same"
        return super().apply(part)

    def source(self, module: nn.Module, path: str) -> str:
        return super().source(module, path) + f'\n    net.get_submodule({quoted(path)}).padding = "same"'


@dataclass(frozen=True)
class ThreeByThree(Change):
    """A new convolution, fresh weights."""

    name = "3x3, stride 1"

    def apply(self, part: nn.Module) -> nn.Module:
        old = convolution(part)
        weight, bias = old.weight, old.bias is not None
        new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=bias, device=weight.device, dtype=weight.dtype)
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        if new.bias is not None:
            nn.init.zeros_(new.bias)
        return new.train(old.training)

    def source(self, module: nn.Module, path: str) -> str:
        part = convolution(module.get_submodule(path))
        channels = f"{part.in_channels}, {part.out_channels}"
        return replaced(path, f"torch.nn.Conv2d({channels}, 3, padding=1, bias={part.bias is not None})")


@dataclass(frozen=True)
class Removed(Change):
    name = "identity"

    def apply(self, part: nn.Module) -> nn.Module:
        return nn.Identity().train(part.training)

    def source(self, module: nn.Module, path: str) -> str:
        return replaced(path, "torch.nn.Identity()")


@dataclass(frozen=True)
class BehindBottleneck(Change):
    """[B, C_in, H, W] -> [B, C, H, W] -> the module itself. The projector of Chen et al. 2022 (SimKD)."""

    channels_in: int
    narrow: int
    channels: int

    name = "bottleneck"
    needs = """

def bottleneck(channels_in, narrow, channels):
    layers = []
    for a, b, kernel in ((channels_in, narrow, 1), (narrow, narrow, 3), (narrow, channels, 1)):
        layers += [torch.nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), torch.nn.BatchNorm2d(b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)
"""

    def apply(self, part: nn.Module) -> nn.Module:
        layers: list[nn.Module] = []
        for channels_in, channels, kernel in (
            (self.channels_in, self.narrow, 1),
            (self.narrow, self.narrow, 3),
            (self.narrow, self.channels, 1),
        ):
            layers += [nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        return nn.Sequential(nn.Sequential(*layers), part).train(part.training)

    def source(self, module: nn.Module, path: str) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return replaced(path, f"torch.nn.Sequential(bottleneck({sizes}), net.get_submodule({quoted(path)}))")


@dataclass(frozen=True)
class OtherFeatures(Change):
    """A linear layer with as many answers as before, of so many features, and with a bias. The module itself, so that hooks stay on it."""

    features: int

    name = "linear"

    def apply(self, part: nn.Module) -> nn.Module:
        head = linear(part)
        new = nn.Linear(self.features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
        head.in_features, head.weight, head.bias = self.features, new.weight, new.bias
        return head

    def source(self, module: nn.Module, path: str) -> str:
        return replaced(path, f"torch.nn.Linear({self.features}, {linear(module.get_submodule(path)).out_features})")


CHANGES: tuple[type[Change], ...] = (NoStride, NoStrideSamePadding, ThreeByThree, Removed, BehindBottleneck, OtherFeatures, Cosine, *PRUNED)


def change_of(became: str) -> Change:
    """The change that is spelled so. Raises CheckpointError for a spelling that none has."""
    for kind in CHANGES:
        change = kind.read(became)
        if change is not None and str(change) == became:
            return change
    raise CheckpointError(f"unknown edit {became[:60]!r}")


def apply_edits(module: nn.Module, edits: Iterable[Sequence[str]]) -> None:
    """Do what edits say, from whoever made them or from their JSON. Raises CheckpointError where one does not fit the net."""
    for name, became in edits:
        change = change_of(became)
        try:
            change.do(module, name)
        except CheckpointError:
            raise
        except Exception:  # it is no part of the net, or of another kind, or memory has no room for what it becomes
            raise CheckpointError(f"the edit {became[:60]!r} does not fit {name[:60]!r} of this net") from None
