"""How long one pass takes: all nets in turn, round after round, so that what a busy machine does to one it does to all.

A net's figure is the median of its rounds, and its spread says whether that is a fact or noise. Nets are compared round by round.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from distillctl.metrics.metric import REPEATS
from distillctl.modes import evaluating
from distillctl.types import Inputs, device_of, first_sample

ROUNDS = 9
FEWEST_ROUNDS = 3  # of nets that are so slow that more would take longer than BUDGET_S
BURST_S = 0.03  # a net's turn in a round, and at least one pass
BUDGET_S = 5.0
SHORT_MS, TRIES = 100.0, 3  # a pass that seems to be shorter is tried again: it may be shorter still
STABLE = 1.25  # the largest of what rounds say over the smallest, up to which a comparison is one

Name = TypeVar("Name")


@dataclass(frozen=True)
class Spread:
    """What rounds say: their median, and the range of them without the lowest and the highest, where there are five or more."""

    middle: float
    low: float
    high: float

    @property
    def relative(self) -> float:
        """Half of the range, as a share of the median."""
        return (self.high - self.low) / 2 / self.middle

    @property
    def repeats(self) -> bool:
        """Whether rounds agree within 10 %: else there is no figure to tell."""
        return self.relative <= REPEATS

    @property
    def stable(self) -> bool:
        """Whether a comparison of nets is one."""
        return self.high <= STABLE * self.low

    def in_words(self, unit: str) -> str:
        if self.stable:
            return f"{self.middle:.1f} {unit} ±{self.relative:.0%}"
        return f"{self.low:.1f} to {self.high:.1f} {unit}, not stable here"


def spread(rounds: Sequence[float]) -> Spread:
    kept = sorted(rounds)
    kept = kept[1:-1] if len(kept) >= 5 else kept
    return Spread(statistics.median(kept), kept[0], kept[-1])


def times_as_fast(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times the speed of the first the second has, each round with itself."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def latencies(nets: Mapping[Name, nn.Module], example: Inputs) -> dict[Name, list[float]]:
    """Milliseconds of a pass of each net in eval mode on the first sample of `example`, which lies on their device, a figure a round.

    On one thread, kept on one processor where the system lets it. The passes are real: hooks run as always. Training flags come back as
    they were, module by module.
    """
    sample = first_sample(example)

    def run(net: nn.Module) -> None:
        net(sample)
        synchronize(device_of(sample))

    with contextlib.ExitStack() as stack:
        for net in nets.values():
            stack.enter_context(evaluating(net))
        stack.enter_context(torch.no_grad())  # not inference_mode: what a model caches in it can never be trained through again
        stack.enter_context(one_thread())
        return in_turn({name: partial(run, net) for name, net in nets.items()})


def in_turn(passes: Mapping[Name, Callable[[], None]]) -> dict[Name, list[float]]:
    """Milliseconds of each pass, the median of a burst in each round; the first passes of all warm up."""
    return {name: [statistics.median(burst) for burst in rounds] for name, rounds in bursts_in_turn(passes).items()}


def bursts_in_turn(passes: Mapping[Name, Callable[[], None]], burst_s: float = BURST_S) -> dict[Name, list[list[float]]]:
    """Milliseconds of every pass, a burst of about `burst_s` a round; the first passes of all warm up."""
    bursts: dict[Name, int] = {}
    for name, run in passes.items():
        timed_ms(run)
        bursts[name] = min(max(int(1e3 * burst_s / max(quickest_ms(run), 1e-3)), 1), 100)
    began, rounds = time.perf_counter(), 0
    found: dict[Name, list[list[float]]] = {name: [] for name in passes}
    while rounds < FEWEST_ROUNDS or rounds < ROUNDS and time.perf_counter() - began < BUDGET_S:
        for name, run in passes.items():
            if bursts[name] > 1:
                run()  # the others have had the caches
            found[name].append([timed_ms(run) for _ in range(bursts[name])])
        rounds += 1
    return found


def quickest_ms(run: Callable[[], None]) -> float:
    """Of a few passes. By one alone, if something interrupted that, a burst would be a single pass, and each round as slow: a wrong figure that repeats."""
    first = timed_ms(run)
    return min(first, *(timed_ms(run) for _ in range(TRIES - 1))) if first < SHORT_MS else first


def timed_ms(run: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, on the processor where it is, and no garbage collection."""
    threads, collects = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    try:
        with pinned():
            yield
    finally:
        torch.set_num_threads(threads)
        if collects:
            gc.enable()


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """This thread stays on the processor where it is; nothing where the system has no such thing, or forbids it."""
    try:
        allowed = os.sched_getaffinity(0)  # type: ignore[attr-defined,unused-ignore]
        here = int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])
        os.sched_setaffinity(0, {here})  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError, ValueError, IndexError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)  # type: ignore[attr-defined,unused-ignore]
