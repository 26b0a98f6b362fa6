"""The table at the end of a run: what the student gained, beside itself alone and beside its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

FINAL = ("fine-tuned", "distilled", "before", "teacher", "model")  # the first of these that a run has is what it is about


def final_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return next(row for name in FINAL for row in rows if row["model"] == name)


def gain(rows: Sequence[dict[str, Any]]) -> float | None:
    """Top-1 of the final student over the same student alone; None without one of them."""
    alone = [row for row in rows if row["model"] == "alone"]
    return final_row(rows)["top1"] - alone[0]["top1"] if alone and final_row(rows)["model"] in FINAL[:2] else None


def summary(config: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json holds."""
    final = final_row(rows)
    return {"seed": config.seed, "final": final["model"], "top1": final["top1"], "gain_over_alone": gain(rows), "rows": list(rows)}


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """One row a model, narrow enough for a terminal of 80 columns; columns that no row has are left out."""
    nets = list(dict.fromkeys(row["architecture"] for row in rows))
    heading = f"{title}: {' → '.join(nets)}"
    found = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 0))
    found.add_column("model", no_wrap=True)
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    alone = next((row["top1"] for row in rows if row["model"] == "alone"), None)
    for key, heading, _ in columns:
        found.add_column(heading, justify="right", no_wrap=True)
        if key == "top1" and gain(rows) is not None:
            found.add_column("vs alone", justify="right", no_wrap=True)
    for row in rows:
        cells: list[Text | str] = [row["model"]]
        for key, _, show in columns:
            cells.append("" if row.get(key) is None else show(row[key]))
            if key == "top1" and gain(rows) is not None:
                cells.append(points(row["top1"] - alone) if alone is not None and row["model"] in FINAL[:2] else "")
        found.add_row(*cells, style="bold" if row is final_row(rows) and len(rows) > 1 else "")
    return found


def points(difference: float) -> Text:
    """A difference of accuracies in percentage points, green where it is a gain."""
    return Text(f"{100 * difference:+.2f}", style="green" if difference > 0 else "red" if difference < 0 else "")


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures mean, in a line or two."""
    final, found = final_row(rows), []
    by_name = {row["model"]: row for row in rows}
    teacher, alone = by_name.get("teacher"), by_name.get("alone")
    if teacher is not None and alone is not None and teacher["top1"] <= alone["top1"]:
        found.append(
            f"the teacher ({percent(teacher['top1'])}) is no better than the student alone ({percent(alone['top1'])}): "
            "it has little to teach; train it longer, or take another, before distilling"
        )
    elif teacher is not None and teacher is not final and final.get("parameters"):
        ratio, faster = teacher["parameters"] / final["parameters"], teacher["latency_p50_ms"] / final["latency_p50_ms"]
        found.append(
            f"the student keeps {final['top1'] / teacher['top1']:.1%} of its teacher's accuracy "
            f"with 1/{ratio:.1f} of the parameters and {faster:.1f}x the speed"
        )
    if gain(rows) is not None:
        error = 100 * (final["top1"] * (1 - final["top1"]) / final["n"]) ** 0.5
        found.append(
            f"one seed, standard error ±{error:.2f} points on {final['n']:,} images; over seeds: distillctl train -m seed=0,1,2,3,4"
        )
    return found


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def count(value: float) -> str:
    """1234567 as 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("top1", "top-1 %", percent),
    ("agreement", "agree %", percent),
    ("nll", "NLL", lambda value: f"{value:.3f}"),
    ("ece", "ECE", lambda value: f"{value:.3f}"),
    ("parameters", "params", count),
    ("macs", "MACs", count),
    ("size_mb", "MB", lambda value: f"{value:.2f}"),
    ("latency_p50_ms", "p50 ms", lambda value: f"{value:.2f}"),
)
