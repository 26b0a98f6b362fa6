"""How a number changes over a stage: factors on a configured value, as pure functions of progress, with no state to save."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

FIRST = 0.01  # where a warm-up starts: at exactly 0 the first step would compute gradients and change nothing


class Schedule(ABC):
    """A factor of progress; 1.0 leaves the configured value as it is."""

    @abstractmethod
    def __call__(self, epoch: float, epochs: float) -> float:
        """The factor at a fractional `epoch` (epoch + step / steps_per_epoch) of a stage of `epochs`; outside it that of its nearer end."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The configured value throughout."""

    def __call__(self, epoch: float, epochs: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Falling(Schedule):
    """A warm-up, then from 1 to `final` at the end of the stage. The warm-up is the longer of so many epochs and of a share of the stage."""

    warmup_epochs: float = 0.0
    final: float = 0.0
    warmup_share: float = 0.0

    def __post_init__(self) -> None:
        _at_least_0("warmup_epochs", self.warmup_epochs)
        _at_least_0("final", self.final)
        _at_least_0("warmup_share", self.warmup_share)
        if self.warmup_share > 1:
            raise ValueError(f"warmup_share={self.warmup_share} must be <= 1, a share of the stage")

    def __call__(self, epoch: float, epochs: float) -> float:
        length = max(self.warmup_epochs, self.warmup_share * epochs)
        fallen = self.fallen(after_warmup(epoch, epochs, length))
        return warmup(epoch, epochs, length) * (1 + (self.final - 1) * fallen)

    @abstractmethod
    def fallen(self, share: float) -> float:
        """Which part of the way is gone after this share of the stage, both in [0, 1]."""


@dataclass(frozen=True)
class Cosine(Falling):
    """A warm-up, then half a cosine from 1 to `final` at the end of the stage (Eq. 5 of Loshchilov & Hutter 2017, without restarts)."""

    def fallen(self, share: float) -> float:
        return (1 - math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Linear(Falling):
    """A warm-up, then a straight line from 1 to `final` at the end of the stage; with final=1 a constant that is warmed up."""

    def fallen(self, share: float) -> float:
        return share


@dataclass(frozen=True)
class Steps(Schedule):
    """A warm-up, and times `gamma` from each milestone on. Milestones are fractions of the whole stage: they fit any number of epochs."""

    milestones: Sequence[float]
    gamma: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))  # a list from a config file would not be frozen
        _at_least_0("gamma", self.gamma)
        _at_least_0("warmup_epochs", self.warmup_epochs)
        for milestone in self.milestones:
            if not (_is_number(milestone) and 0 < milestone < 1):
                raise ValueError(f"milestones={list(self.milestones)} must be fractions of the stage between 0 and 1, both excluded")
        if not self.milestones or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)} must be one or more rising fractions")

    def __call__(self, epoch: float, epochs: float) -> float:
        # epoch / epochs, not milestone * epochs: 7 / 100 is 0.07, but 0.07 * 100 is more than 7 and would come a step late
        progress = epoch / epochs if epochs > 0 else 0.0
        passed = sum(milestone <= progress for milestone in self.milestones)
        return float(warmup(epoch, epochs, self.warmup_epochs) * self.gamma**passed)


def warmup(epoch: float, epochs: float, warmup_epochs: float) -> float:
    """From FIRST at epoch 0 in a straight line to 1 at `warmup_epochs`, or at the end of the stage where that is shorter.

    The line starts at FIRST (1 %) instead of 0, so that the very first step already moves; the step's length need not be known for it.
    """
    length = min(warmup_epochs, epochs)
    if epoch >= length:
        return 1.0
    return FIRST + (1 - FIRST) * max(epoch, 0.0) / length


def after_warmup(epoch: float, epochs: float, warmup_epochs: float) -> float:
    """The share of the stage after its warm-up that has passed, in [0, 1]; 0 throughout where the warm-up takes the whole stage."""
    length = min(warmup_epochs, epochs)
    if epoch <= length or length >= epochs:
        return 0.0
    return min(1.0, (epoch - length) / (epochs - length))


def _at_least_0(name: str, value: float) -> None:
    if not _is_number(value):
        raise ValueError(f"{name}={value!r} must be a finite number")
    if value < 0:
        raise ValueError(f"{name}={value} must be >= 0")


def _is_number(value: object) -> bool:
    # a quoted number in a config file arrives as text, and `true` would pass for 1
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
