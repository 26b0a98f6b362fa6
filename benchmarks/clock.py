"""What the benchmarks measure time by, and how they tell it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Time:
    """Seconds by the wall, and those that this process computed: others on the same cores disturb these less."""

    wall: float
    cpu: float

    def __add__(self, other: Time) -> Time:
        return Time(self.wall + other.wall, self.cpu + other.cpu)

    def __mul__(self, factor: float) -> Time:
        return Time(self.wall * factor, self.cpu * factor)


def timed(work: Callable[[], object], device: torch.device) -> Time:
    """To the end of what the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Time(time.perf_counter() - wall, time.process_time() - cpu)


def ratios(times: Sequence[Time], others: Sequence[Time]) -> tuple[list[float], list[float]]:
    """Pair by pair: by the wall, and by CPU time."""
    pairs = list(zip(times, others, strict=True))
    return [mine.wall / other.wall for mine, other in pairs], [mine.cpu / other.cpu for mine, other in pairs]


def spread(values: Sequence[float]) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def turns(names: Sequence[str], number: int) -> list[str]:
    """The order of a round. Of an even count of names, over as many rounds each follows each other once (Williams 1949).

    What ran before leaves caches and freed memory behind, which no kind should have more often than another.
    """
    count = len(names)
    zigzag = [(step + 1) // 2 * (1 if step % 2 else -1) for step in range(count)]  # 0, 1, -1, 2 ...
    return [names[(number + place) % count] for place in zigzag]


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_ups: int = 1) -> dict[str, list[Time]]:
    """What each takes in every round, once all have run without a clock. Which goes first changes, so that a drift of the machine hits all alike."""
    for work in works.values():
        for _ in range(warm_ups):
            work()
    times: dict[str, list[Time]] = {name: [] for name in works}
    for number in range(rounds):
        for name in turns([*works], number):
            times[name].append(timed(works[name], device))
    return times


def compared(times: Sequence[Time], others: Sequence[Time]) -> str:
    """How a pair did, in words."""
    wall, cpu = ratios(times, others)
    return f"ratio of time {spread(wall)}, of CPU time {spread(cpu)}, n = {len(times)}"
