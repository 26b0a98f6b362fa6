"""The matrix of a sequence of tasks for people: a table in the terminal, and a picture with the curves of several sequences."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl import extras, state
from distillctl.report.console import Table

Matrix = Sequence[Sequence[float]]
WIDEST = 12  # tasks that a terminal has room for


def table(name: str, class_il: Matrix, task_il: Matrix) -> Table:
    """Accuracy in percent on each task (a column) after each task (a row), class-IL, with task-IL's mean beside it; tasks to come are left blank."""
    count = len(class_il)
    shown = range(count) if count <= WIDEST else [*range(WIDEST - 3), *range(count - 3, count)]
    found = Table(f"{name}: accuracy % on each task after each task, among all classes that came so far", padding=(0, 1))
    found.add_column("after", justify="left", no_wrap=True)
    for place in shown:
        found.add_column(f"{place + 1}", justify="right", no_wrap=True)
    found.add_column("mean", justify="right", no_wrap=True)
    found.add_column("task-IL", justify="right", no_wrap=True)
    for row in shown:
        so_far = class_il[row][: row + 1]
        cells = [f"{100 * class_il[row][place]:.1f}" if place <= row else "" for place in shown]
        means = [f"{100 * sum(values) / len(values):.1f}" for values in (so_far, task_il[row][: row + 1])]
        found.add_row(f"task {row + 1}", *cells, *means)
    return found


def picture(sequences: Sequence[Mapping[str, Any]], file: Path) -> str | None:
    """A PNG: a heat map for each sequence of several tasks, and the curve of its mean accuracy on the tasks so far. Returns what is lacking, if so."""
    if not extras.is_installed("matplotlib"):
        return f"for a picture of the matrix: {extras.pip_line('plots')}"
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = [item for item in sequences if len(item["matrix"]) > 1]
    if not several:
        return "one task at once has no matrix to draw"
    figure = Figure(figsize=(3.4 * (len(several) + 1), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(several) + 1, squeeze=False)[0]
    for place, (axis, item) in enumerate(zip(axes, several, strict=False)):
        heat_map(axis, item, first=place == 0)
    curves(axes[-1], sequences)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    state.write_atomically(file, [content.getvalue()])
    return None


def heat_map(axis: Any, item: Mapping[str, Any], first: bool) -> None:
    """Rows are after each task, columns are tasks; the darker the better."""
    matrix, count = item["matrix"], len(item["matrix"])
    values = [[100 * matrix[row][place] if place <= row else float("nan") for place in range(count)] for row in range(count)]
    axis.imshow(values, vmin=0, vmax=100, cmap="Blues")
    if count <= 10:
        for row in range(count):
            for place in range(row + 1):
                colour = "white" if values[row][place] > 60 else "black"
                axis.text(place, row, f"{values[row][place]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    ticks = range(0, count, max(1, count // 10))
    axis.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    axis.set_yticks(ticks, [str(tick + 1) for tick in ticks])
    axis.set_title(f"{item['model']}: {100 * item['final_accuracy']:.1f} %", fontsize=10)
    axis.set_xlabel("task")
    axis.set_ylabel("after task" if first else "")


def curves(axis: Any, sequences: Sequence[Mapping[str, Any]]) -> None:
    """Mean accuracy on the tasks so far; of all tasks at once a line."""
    for item in sequences:
        matrix = item["matrix"]
        if len(matrix) == 1:
            axis.axhline(100 * item["final_accuracy"], linestyle="--", color="grey", linewidth=1, label=item["model"])
            continue
        means = [100 * sum(row[: number + 1]) / (number + 1) for number, row in enumerate(matrix)]
        axis.plot(range(1, len(matrix) + 1), means, marker="o", markersize=3, label=item["model"])
    axis.set_ylim(0, 101)
    axis.set_xlabel("tasks learnt")
    axis.set_title("mean accuracy on them, %", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
