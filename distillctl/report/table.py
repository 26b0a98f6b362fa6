"""The table at the end of a run: what the student gained, beside itself alone and beside its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from distillctl.metrics.chance import is_near_chance
from distillctl.metrics.latency import times_as_fast
from distillctl.metrics.metric import FIRST_TO_GO, METRICS, WITH_FILES, Metric, percent
from distillctl.report.console import Table

WIDTH = 80  # of a terminal
EAGER = "PyTorch"  # what runs a row that says nothing of it
ALONE, TEACHER = "alone", "teacher"  # rows that others are compared with


@dataclass(frozen=True)
class Results:
    """rows: what was measured, a model each. final: the row that the run is about. own: the rows of the run's student on its way.

    noun: what the samples are called. why: the final one is final, where there was a choice; it is then marked in the table too. over_seeds: the line that does the same with
    several seeds.
    few: of a run of few steps, whose figures mean little, a line that says so; else empty.
    """

    rows: Sequence[dict[str, Any]]
    final: str
    own: tuple[str, ...] = ()
    noun: str = "images"
    why: str = ""
    over_seeds: str = ""
    few: str = ""

    def row(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["model"] == name), None)

    @property
    def final_row(self) -> dict[str, Any]:
        found = self.row(self.final)
        assert found is not None, self.final
        return found

    @property
    def gain(self) -> float | None:
        """Top-1 of the final student over the same student alone; None without one of them."""
        final, alone = self.final_row, self.row(ALONE)
        if alone is None or self.final not in self.own or final["top1"] is None:
            return None
        return final["top1"] - alone["top1"]

    def summary(self, seed: int) -> dict[str, Any]:
        """What summary.json holds."""
        final = self.final_row
        return {
            "seed": seed,
            "final": self.final,
            "why": self.why,
            "top1": final["top1"],
            "gain_over_alone": self.gain,
            "rows": list(self.rows),
        }

    def table(self, title: str) -> Table:
        """One row a model, narrow enough for a terminal of 80 columns; columns that no row has, or that say nothing here, are left out.

        Top-1 is always there: a dash where the samples have no labels.
        """
        metrics = [metric for metric in METRICS if metric.key == "top1" or self.has(metric)]
        columns = self.columns(metrics)
        for key in WITH_FILES if any(row.get("runtime") for row in self.rows) else FIRST_TO_GO:
            if 1 + sum(max(map(len, map(str, column))) + 1 for column in columns) > WIDTH:
                metrics = [metric for metric in metrics if metric.key != key]
                columns = self.columns(metrics)
        found = Table(f"{title}: {self.lineage()}", padding=(0, 0))
        for number, (header, *_) in enumerate(columns):
            found.add_column(str(header), justify="right" if number else "left", no_wrap=True)
        for row, cells in zip(self.rows, zip(*(column[1:] for column in columns), strict=True), strict=True):
            found.add_row(*cells, style="bold" if row is self.final_row and len(self.rows) > 1 else "")
        return found

    def has(self, metric: Metric) -> bool:
        return any(row.get(metric.key) is not None for row in self.rows) and metric.matters(self.rows)

    def columns(self, metrics: Sequence[Metric]) -> list[list[Text | str]]:
        """Each with its heading first."""
        found: list[list[Text | str]] = [
            ["model", *(row["model"] + (" *" if self.why and row["model"] == self.final else "") for row in self.rows)]
        ]
        alone = self.row(ALONE)
        for metric in metrics:
            found.append([metric.heading, *(metric.cell(row) or ("-" if metric.key == "top1" else "") for row in self.rows)])
            if metric.key == "top1" and self.gain is not None and alone is not None:
                found.append(["vs alone", *(points(row["top1"] - alone["top1"]) if row["model"] in self.own else "" for row in self.rows)])
        return found

    def lineage(self) -> str:
        """Who taught whom: teacher → assistants → student, and its peers."""
        chain = [row["architecture"] for row in self.rows if row["model"] == TEACHER or row["model"].startswith("assistant")]
        peers = [row["architecture"] for row in self.rows if row["model"].startswith("peer")]
        return " + ".join([" → ".join(dict.fromkeys([*chain, self.final_row["architecture"]])), *peers])

    def remarks(self) -> list[str]:
        """What the figures mean, in a line or two."""
        final, found = self.final_row, self.why.splitlines()
        teacher, alone = self.row(TEACHER), self.row(ALONE)
        if self.few:
            return [*found, self.few]
        if final["top1"] is None:
            if final.get("agreement") is not None:
                found.append(f"these {self.noun} have no labels: the student answers {final['agreement']:.1%} of them as its teacher does")
            return found
        if teacher is not None and alone is not None and teacher["top1"] <= alone["top1"]:
            found.append(
                f"the teacher ({percent(teacher['top1'])}) is no better than the student alone ({percent(alone['top1'])}): "
                "it has little to teach; train it longer, or take another, before distilling"
            )
        elif teacher is not None and teacher is not final and final.get("parameters"):
            beside = f" {size_beside(teacher, final)}{speed(teacher, final)}" if teacher.get("parameters") else ""
            found.append(f"{accuracy_beside(teacher, final)}{beside}")
        if final.get("robust_top1") is not None:
            found.append(attack_remark(final))
        if self.gain is not None:
            error = 100 * (final["top1"] * (1 - final["top1"]) / final["n"]) ** 0.5
            line = f"; over seeds: {self.over_seeds}" if self.over_seeds else ""
            found.append(f"one seed, standard error ±{error:.2f} points on {final['n']:,} {self.noun}{line}")
        return found


def points(difference: float) -> Text:
    """A difference of accuracies in percentage points, green where it is a gain."""
    return Text(f"{100 * difference:+.2f}", style="green" if difference > 0 else "red" if difference < 0 else "")


def accuracy_beside(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """How a student's accuracy is beside its teacher's; no share of one that is worth nothing itself."""
    if teacher.get("classes") and is_near_chance(teacher["top1"], teacher["classes"], teacher["n"]):
        return f"the teacher is near chance ({percent(teacher['top1'])}), so little was taught: the student has {percent(student['top1'])}"
    if student["top1"] >= teacher["top1"]:
        return f"the student ({percent(student['top1'])}) is no worse than its teacher ({percent(teacher['top1'])})"
    return f"the student keeps {student['top1'] / teacher['top1']:.1%} of its teacher's accuracy"


def size_beside(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """How large a student is beside its teacher, whichever is the larger."""
    ratio = student["parameters"] / teacher["parameters"]
    if ratio > 1.05:
        return f"and is the larger net, of {ratio:.1f} times the parameters"
    if ratio > 1 / 1.05:
        return "with as many parameters"
    return f"with 1/{1 / ratio:.1f} of the parameters"


def speed(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """How many times as fast the student is, if rounds agree; nothing where they were not measured together."""
    slow, fast = teacher.get("latency_rounds_ms"), student.get("latency_rounds_ms")
    if not slow or not fast or len(slow) != len(fast):
        return ""
    found = times_as_fast(slow, fast)
    if not found.stable:
        return f"; its speed is not stable here: {found.low:.1f}x to {found.high:.1f}x in {len(slow)} rounds"
    apart = teacher.get("runtime", EAGER), student.get("runtime", EAGER)
    by = f"; the teacher in {apart[0]}, the student in {apart[1]}" if apart[0] != apart[1] else ""
    return f" and {found.middle:.1f}x the speed ({found.low:.2f} to {found.high:.2f} in {len(slow)} rounds; one image, one thread{by})"


def attack_remark(row: dict[str, Any]) -> str:
    """By what attack `robust_top1` was measured."""
    attack = row["attack"]
    if attack["name"] == "autoattack":
        return f"robust: top-1 under AutoAttack's standard version, no value of [0, 1] changed by more than {attack['eps']:.3g}"
    return (
        f"robust: top-1 under {attack['name'].upper()} of {attack['steps']} steps of {attack['step']:.3g}, "
        f"no value of [0, 1] changed by more than {attack['eps']:.3g}; a stronger attack may leave less"
    )
