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
    final, alone = final_row(rows), next((row for row in rows if row["model"] == "alone"), None)
    if alone is None or final["model"] not in FINAL[:2] or final["top1"] is None:
        return None
    return final["top1"] - alone["top1"]


def objective(rows: Sequence[dict[str, Any]]) -> float:
    """What a sweeper may maximise: top-1 of the final model, and where there are no labels its agreement with the teacher."""
    final = final_row(rows)
    return final["agreement"] if final["top1"] is None else final["top1"]


def summary(config: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json holds."""
    final = final_row(rows)
    return {"seed": config.seed, "final": final["model"], "top1": final["top1"], "gain_over_alone": gain(rows), "rows": list(rows)}


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """One row a model, narrow enough for a terminal of 80 columns; columns that no row has are left out.

    Top-1 is always there: a dash where the images have no labels.
    """
    heading = f"{title}: {lineage(rows)}"
    found = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 0))
    found.add_column("model", no_wrap=True)
    columns = [column for column in COLUMNS if column[0] == "top1" or any(row.get(column[0]) is not None for row in rows)]
    if gain(rows) is not None and any(row.get("robust_top1") is not None for row in rows):
        columns = [column for column in columns if column[0] != "ece"]  # no room for it; summary.json has it
    alone = next((row["top1"] for row in rows if row["model"] == "alone"), None)
    for key, heading, _ in columns:
        found.add_column(heading, justify="right", no_wrap=True)
        if key == "top1" and gain(rows) is not None:
            found.add_column("vs alone", justify="right", no_wrap=True)
    for row in rows:
        cells: list[Text | str] = [row["model"]]
        for key, _, show in columns:
            cells.append(show(row[key]) if row.get(key) is not None else "-" if key == "top1" else "")
            if key == "top1" and gain(rows) is not None:
                cells.append(points(row["top1"] - alone) if alone is not None and row["model"] in FINAL[:2] else "")
        found.add_row(*cells, style="bold" if row is final_row(rows) and len(rows) > 1 else "")
    return found


def lineage(rows: Sequence[dict[str, Any]]) -> str:
    """Who taught whom: teacher → assistants → student, and its peers."""
    final = final_row(rows)
    chain = [row["architecture"] for row in rows if row["model"] == "teacher" or row["model"].startswith("assistant")]
    peers = [row["architecture"] for row in rows if row["model"].startswith("peer")]
    return " + ".join([" → ".join(dict.fromkeys([*chain, final["architecture"]])), *peers])


def points(difference: float) -> Text:
    """A difference of accuracies in percentage points, green where it is a gain."""
    return Text(f"{100 * difference:+.2f}", style="green" if difference > 0 else "red" if difference < 0 else "")


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures mean, in a line or two."""
    final, found = final_row(rows), []
    by_name = {row["model"]: row for row in rows}
    teacher, alone = by_name.get("teacher"), by_name.get("alone")
    if final["top1"] is None:
        if final.get("agreement") is not None:
            found.append(f"these images have no labels: the student answers {final['agreement']:.1%} of them as its teacher does")
        return found
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
    if final.get("robust_top1") is not None:
        found.append(attack_remark(final))
    if gain(rows) is not None:
        error = 100 * (final["top1"] * (1 - final["top1"]) / final["n"]) ** 0.5
        found.append(
            f"one seed, standard error ±{error:.2f} points on {final['n']:,} images; over seeds: distillctl train -m seed=0,1,2,3,4"
        )
    return found


def attack_remark(row: dict[str, Any]) -> str:
    """By what attack `robust_top1` was measured."""
    attack = row["attack"]
    return (
        f"robust: top-1 under {attack['name'].upper()} of {attack['steps']} steps of {attack['step']:.3g}, "
        f"no value of [0, 1] changed by more than {attack['eps']:.3g}; a stronger attack may leave less"
    )


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
    ("robust_top1", "robust %", percent),
    ("agreement", "agree %", percent),
    ("nll", "NLL", lambda value: f"{value:.3f}"),
    ("ece", "ECE", lambda value: f"{value:.3f}"),
    ("parameters", "params", count),
    ("macs", "MACs", count),
    ("size_mb", "MB", lambda value: f"{value:.2f}"),
    ("latency_p50_ms", "p50 ms", lambda value: f"{value:.2f}"),
)
