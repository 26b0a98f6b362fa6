"""What a model file costs in its own runtime: latency at batch 1, throughput at batch N, peak memory, size on disk.

Every runtime is an `nn.Module` that takes inputs as its file wants them, so that files of several formats are timed in one go, in turn.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from distillctl.formats import bytes_of
from distillctl.metrics.latency import bursts_in_turn, one_thread, spread, synchronize
from distillctl.metrics.metric import REPEATS
from distillctl.modes import evaluating
from distillctl.types import Inputs, count, device_of

FIGURES = {
    "latency_p50_ms": "latency",
    "latency_p95_ms": "latency_p95",
    "throughput_per_s": "throughput",
}  # and what their spreads begin with
BURST_S = 0.3  # ten times that of a table: the slowest of twenty passes is asked for
Name = TypeVar("Name")


@dataclass(frozen=True)
class Timed:
    """A model, and what it is asked: one sample, and as many as its throughput is measured with, on its device."""

    model: nn.Module
    one: Inputs
    many: Inputs


def runtime_costs(models: Mapping[Name, Timed]) -> dict[Name, dict[str, Any]]:
    """Of each model `latency_p50_ms` and `latency_p95_ms` at batch 1 and `throughput_per_s` at batch `throughput_batch`.

    All are measured in turn, round after round, on one thread that stays on one processor. A figure is the median of the rounds, and its
    `..._spread` half of what they cover as a share of it; see `withheld` for what that means. Runtimes with threads of their own are
    kept on that processor too, if they start them by then.
    """
    passes: dict[tuple[Name, bool], Any] = {}
    with contextlib.ExitStack() as stack:
        for name, timed in models.items():
            stack.enter_context(evaluating(timed.model))
            passes[name, False] = partial(_answer, timed.model, timed.one)
            passes[name, True] = partial(_answer, timed.model, timed.many)
        stack.enter_context(torch.no_grad())
        stack.enter_context(one_thread())
        bursts = bursts_in_turn(passes, BURST_S)
    return {name: _figures(bursts[name, False], bursts[name, True], count(timed.many)) for name, timed in models.items()}


def withheld(costs: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with None in the place of each figure whose rounds lie more than 10 % apart, and `..._stable` that says which."""
    found = dict(costs)
    for figure, about in FIGURES.items():
        found[f"{about}_stable"] = costs[f"{about}_spread"] <= REPEATS
        if not found[f"{about}_stable"]:
            found[figure] = None
    return found


def file_mb(file: Path) -> float:
    """Megabytes (1e6 bytes) of a model file as it lies on the disk, with all that belongs to it."""
    return bytes_of(file) / 1e6


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def _answer(model: nn.Module, inputs: Inputs) -> None:
    model(inputs)
    synchronize(device_of(inputs))


def _figures(single: Sequence[Sequence[float]], many: Sequence[Sequence[float]], batch: int) -> dict[str, Any]:
    """Of milliseconds by round and pass, of one sample and of `batch`."""
    halves = [percentile(burst, 0.5) for burst in single]
    slow = spread([percentile(burst, 0.95) for burst in single])
    rates = spread([1e3 * batch / percentile(burst, 0.5) for burst in many])
    middle = spread(halves)
    return {
        "latency_p50_ms": middle.middle,
        "latency_spread": middle.relative,
        "latency_p95_ms": slow.middle,
        "latency_p95_spread": slow.relative,
        "latency_rounds_ms": halves,
        "latency_passes": sum(map(len, single)),
        "throughput_per_s": rates.middle,
        "throughput_spread": rates.relative,
        "throughput_batch": batch,
    }
