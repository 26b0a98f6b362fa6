"""What `evaluate` prints besides the one row of its table: by class, by corruption, and what the file costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillctl.metrics.metric import WITHHELD, count
from distillctl.report.console import Table

CLASSES_SHOWN = 20


def class_table(classes: Sequence[Mapping[str, Any]]) -> Table:
    """The classes in their order; of many the hardest first, and those alone."""
    table = Table()
    for heading in ("class", "n", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    worst_first = sorted(classes, key=lambda entry: entry["f1"])
    for entry in classes if len(classes) <= CLASSES_SHOWN else worst_first[:CLASSES_SHOWN]:
        table.add_row(str(entry["class"]), str(entry["n"]), *(f"{100 * entry[key]:.1f}" for key in ("precision", "recall", "f1")))
    return table


def corruption_table(found: Mapping[str, Any], clean: float) -> Table:
    """Top-1 by corruption and severity, what that is less than on clean images, and its errors beside the teacher's."""
    by_teacher = "normalised" in found
    severities = list(next(iter(found["accuracy"].values())))
    table = Table(f"top-1 % under corruptions, strengths of {found['strengths']}")
    for heading in ("corruption", *severities, "mean", "vs clean", *(("CE %",) if by_teacher else ())):
        table.add_column(heading, justify="left" if heading == "corruption" else "right")
    for name, accuracy in found["accuracy"].items():
        mean = 1 - found["error"][name]
        cells = [*(f"{100 * value:.1f}" for value in accuracy.values()), f"{100 * mean:.1f}", f"{100 * (mean - clean):+.1f}"]
        if by_teacher:
            ratio = found["normalised"][name]
            cells.append("-" if ratio is None else f"{100 * ratio:.0f}")
        table.add_row(name, *cells)
    return table


def corruption_remark(found: Mapping[str, Any]) -> str:
    """The mean corruption error, and by what it is normalised."""
    plain = f"mean corruption error: {100 * found['mean_error']:.2f} %, not normalised"
    if found.get("normalised_error") is None:
        return plain
    ratio, theirs = 100 * found["normalised_error"], 100 * found["teacher_mean_error"]
    return f"{plain}; {ratio:.0f} % of the teacher's errors ({theirs:.2f} %), as CE % has it by corruption"


def cost_lines(cost: Mapping[str, Any], noun: str) -> list[str]:
    """What the file costs; figures whose rounds lie more than 10 % apart are withheld."""

    def figure(key: str, spread: str, unit: str, places: int) -> str:
        value, around = cost[key], cost[spread]
        return f"{WITHHELD} here (±{around:.0%})" if value is None else f"{value:,.{places}f} {unit} ±{around:.0%}"

    batch = cost["throughput_batch"]
    lines = [
        f"latency in {cost['runtime']}, one thread, batch 1: p50 {figure('latency_p50_ms', 'latency_spread', 'ms', 2)}, "
        f"p95 {figure('latency_p95_ms', 'latency_p95_spread', 'ms', 2)}",
        f"throughput at batch {batch}: {figure('throughput_per_s', 'throughput_spread', f'{noun}/s', 0)}",
    ]
    memory = cost["peak_memory_mb"]
    lines.append(
        f"peak memory at batch {batch}: {memory:.1f} MB besides the libraries, in a fresh process"
        if memory is not None
        else "peak memory: not measured, as the file has no record that it could be loaded by"
    )
    macs = f", {count(cost['macs'])} MACs" if cost.get("macs") is not None else ""
    return [*lines, f"{cost['file_mb']:.2f} MB on the disk, {count(cost['parameters'])} parameters{macs}"]
