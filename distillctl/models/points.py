"""Where a tap sits in a net, and in which form it gives what passes there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TapPoint:
    """What goes into a module, or what comes out of it.

    heads: tokens [B, T, H · D] come as [B, T, H, D]. first: of tokens [B, T, C] the first one alone, [B, C].
    """

    module: str
    side: str  # "output" or "input"
    last_is_channels: bool = False  # maps [B, H, W, C], as some transformers have them
    heads: int | None = None
    first: bool = False

    @property
    def meaning(self) -> str:
        return self.module if self.side == "output" else f"what goes into {self.module}"

    def formed(self, values: Tensor) -> Tensor:
        if self.last_is_channels:
            return values.permute(0, 3, 1, 2)
        if self.heads is not None:
            values = values.unflatten(-1, (self.heads, -1))
        return values[:, 0] if self.first else values


@dataclass(frozen=True)
class Stack:
    """The same feature of several layers as one, [B, L, ...]."""

    points: tuple[TapPoint, ...]

    @property
    def meaning(self) -> str:
        return f"{self.points[0].meaning} to {self.points[-1].meaning}"
