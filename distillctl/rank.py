"""Which of a run's processes this is, and how many processors it may use. No torch here."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Rank:
    """One process among those of a run: its number, of all machines and of this one, and how many there are."""

    number: int = 0
    world: int = 1
    local_number: int = 0
    local_world: int = 1

    @staticmethod
    def is_given() -> bool:
        """Whether somebody who starts ranks, torchrun or `launch`, has started this process."""
        return VARIABLES[0] in os.environ

    @classmethod
    def here(cls) -> Rank:
        """As the environment says."""
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(VARIABLES, astuple(cls()), strict=True)))

    def variables(self) -> dict[str, str]:
        return {name: str(value) for name, value in zip(VARIABLES, astuple(self), strict=True)}


def processors() -> int:
    """Of this process and of whoever shares them with it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_processors() -> int:
    """The share of this process, where several of one run are on this machine."""
    return max(1, processors() // Rank.here().local_world)
