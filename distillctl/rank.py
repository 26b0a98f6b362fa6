"""Which of a run's processes this is, and how many processors it may use. No torch here."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass

from distillctl.errors import MachineError

NEEDED = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # beside RANK
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
        """As the environment says. Raises MachineError where that is half of what torchrun says."""
        check()
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(VARIABLES, astuple(cls()), strict=True)))

    def variables(self) -> dict[str, str]:
        return {name: str(value) for name, value in zip(VARIABLES, astuple(self), strict=True)}


def check() -> None:
    """Ranks that find no others would wait for them, or each begin a run of its own."""
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    wrong = next((name for name, value in given.items() if not value.isdecimal()), None)
    if wrong is not None:
        raise MachineError(f"{wrong}={given[wrong]}: expected a whole number, as torchrun sets it; unset it to train in one process")
    if "RANK" in given:
        missing = [name for name in NEEDED if name not in os.environ]
        if missing:
            raise MachineError(f"RANK is set, but not {', '.join(missing)}; start by torchrun, or unset RANK to train in one process")
        if int(given["RANK"]) >= int(given["WORLD_SIZE"]):
            raise MachineError(
                f"RANK={given['RANK']}: there are {given['WORLD_SIZE']} processes (WORLD_SIZE), counted from 0; start by torchrun"
            )
    elif int(given.get("WORLD_SIZE", 1)) > 1:
        raise MachineError(f"WORLD_SIZE={given['WORLD_SIZE']} is set, but not RANK; start by torchrun, or unset WORLD_SIZE")


def processors() -> int:
    """Of this process and of whoever shares them with it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_processors() -> int:
    """The share of this process, where several of one run are on this machine."""
    return max(1, processors() // Rank.here().local_world)
