"""What came out of a sweep: a row for each setting, ranked by the validation split, with the spread over seeds where there are several."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl import state
from distillctl.metrics.metric import METRICS, OF_TASKS, VALIDATION, by_key, on_validation
from distillctl.report.console import Table, Terminal
from distillctl.runs.objective import USUAL
from distillctl.terminal import Stream, cell

MEASURED = tuple(mark + metric.key for metric in METRICS if metric.over_seeds for mark in ("", VALIDATION))


def group(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for all seeds of equal settings, the best by validation first; those of which nothing is known last."""
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if jobs else set()
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        words = (word for word in job["overrides"] if word not in common and word.lstrip("+").partition("=")[0] != "seed")
        groups.setdefault(tuple(words), []).append(job)
    key = ranked_by(jobs)
    rows = [row(words, members, key) for words, members in groups.items()]
    rows.sort(key=lambda item: standing(item, key), reverse=True)
    best = [item for item in rows if standing(item, key) == standing(rows[0], key) > -math.inf]
    for item in best if len(best) < len(rows) else []:  # where all are equal, none is the best
        item["best"] = True
    return rows


def ranked_by(jobs: Sequence[dict[str, Any]]) -> str:
    """The figure of the validation split that the jobs were told to be chosen by, which is never one of the test split."""
    told = dict.fromkeys(key for job in jobs for key in job.get("objective", {}))
    known = {key for job in jobs for item in job.get("rows", ()) for key, value in item.items() if value is not None}
    usual = [key for key in USUAL if key in known]
    return next((key for key in (*told, *usual) if key in on_validation()), USUAL[0])


def standing(item: Mapping[str, Any], key: str) -> float:
    """Of which the larger is the better; of a setting without the figure the worst."""
    mean = (item["validation"] or {}).get("mean")
    if mean is None or math.isnan(mean):
        return -math.inf
    return mean if by_key(key).better == "high" else -mean


def row(words: Sequence[str], members: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """Mean and sample standard deviation over different seeds: the same setting with the same seed again is no other seed, and not counted."""
    finished = [job for job in members if "rows" in job]
    done = list({job["seed"]: job for job in reversed(finished)}.values())[::-1]
    result: dict[str, Any] = {
        "setting": " ".join(words),
        "short": " ".join(map(short, words)) or "all",
        "n": len(done),
        "seeds": [job["seed"] for job in done],
        "repeats": [job["job"] for job in finished if job not in done],
        "failed": [{"job": job["job"], "error": job["error"]} for job in members if "rows" not in job],
        "best": False,
        "ranked_by": key,
        "models": {},
    }
    for name in dict.fromkeys(item["model"] for job in done for item in job["rows"]):
        mine = [item for job in done for item in job["rows"] if item["model"] == name]
        result["models"][name] = {
            measured: spread([item[measured] for item in mine])
            for measured in MEASURED
            if all(item.get(measured) is not None for item in mine)
        }
    finals = [item.get(key) for job in done for item in job["rows"] if item["model"] == job["final"]]
    result["validation"] = spread([value for value in finals if value is not None]) if finals and None not in finals else None
    result["own"] = sorted({name for job in done for name in job["own"]})
    gains = [job["gain_over_alone"] for job in done if job.get("gain_over_alone") is not None]
    if gains:
        result["gain_over_alone"] = spread(gains)
    return result


def spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def write(folder: Path, jobs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """sweep.json with jobs and rows, sweep.csv with one line a setting and model; both in the order of the table."""
    state.write_json(folder / "sweep.json", {"jobs": list(jobs), "rows": list(rows)})
    text = io.StringIO()
    lines = csv.writer(text)
    keys = (*MEASURED, "gain_over_alone")
    lines.writerow(["setting", "best", "n", "model", *(f"{key}_{part}" for key in keys for part in ("mean", "std"))])
    for item in rows:
        for model, measured in item["models"].items():
            values = {**measured, "gain_over_alone": item.get("gain_over_alone") if model in item["own"] else None}
            cells = [(values.get(key) or {}).get(part) for key in keys for part in ("mean", "std")]
            lines.writerow(map(cell, [item["setting"], item["best"], item["n"], model, *cells]))
    state.write_atomically(folder / "sweep.csv", [text.getvalue().encode()])


def print_table(folder: Path, jobs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """The table, the jobs that failed by name, and those that were others again."""
    console = Terminal(Stream(patient=True))
    seeds = max((item["n"] for item in rows), default=0)
    key, columns = tested(rows), columns_of(rows)
    table = Table(title(rows, key, seeds), padding=(0, 0))
    table.add_column("setting", overflow="fold", min_width=min(14, max((len(item["short"]) for item in rows), default=0)))
    gained = any(item.get("gain_over_alone") for item in rows)
    for heading in (val_heading(rows), *columns, *(["vs alone"] if gained else [])):
        table.add_column(heading, justify="right")
    for item in rows:
        cells = [shown(item["models"].get(model or "".join(item["own"]), {}).get(metric), metric) for model, metric in columns.values()]
        fewer = f" (n = {item['n']})" if item["n"] != seeds else ""
        best = " *" if item["best"] else ""
        gain = [shown(item.get("gain_over_alone"), "top1", signed=True)] if gained else []
        table.add_row(item["short"] + fewer + best, shown(item["validation"], ranking_of(rows)), *cells, *gain)
    console.print()
    console.print(table)
    for job in jobs:
        if job["error"]:
            console.print(f"failed: job {job['job'] + 1} ({' '.join(job['overrides'])}): {job['error']}", style="red", soft_wrap=True)
    again = [number + 1 for item in rows for number in item["repeats"]]
    if again:
        console.print(f"not counted: job {', '.join(map(str, again))}, the same setting and seed as a job before", soft_wrap=True)
    console.print(f"results: {folder / 'sweep.json'}, {folder / 'sweep.csv'}", soft_wrap=True)


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """By heading, which model and metric a column shows; without a model that of the setting's own student.

    Students that learnt tasks are called by their strategies, so they have their figures side by side, and what was trained beside them its own column.
    """
    names, key = list(dict.fromkeys(name for item in rows for name in item["models"])), tested(rows)
    own = [item["models"].get("".join(item["own"]), {}) for item in rows if item["n"]]
    if not any("task_il" in measured for measured in own):
        return {name: (name, key) for name in names}
    figures = [metric for metric in (key, *OF_TASKS) if by_key(metric).over_seeds]
    students = {"".join(item["own"]) for item in rows}
    return {
        **{by_key(metric).heading: ("", metric) for metric in figures},
        **{name: (name, key) for name in names if name not in students},
    }


def val_heading(rows: Sequence[dict[str, Any]]) -> str:
    """Short where it is what the other columns are."""
    ranking = ranking_of(rows)
    return "val" if ranking == VALIDATION + tested(rows) else f"val {by_key(ranking).heading}"


def ranking_of(rows: Sequence[dict[str, Any]]) -> str:
    return str(rows[0]["ranked_by"]) if rows else "val_top1"


def tested(rows: Sequence[dict[str, Any]]) -> str:
    """What is shown of the test split: accuracy, and without labels agreement."""
    measured = {key for item in rows for model in item["models"].values() for key in model}
    return "agreement" if "agreement" in measured and "top1" not in measured else "top1"


def title(rows: Sequence[dict[str, Any]], key: str, seeds: int) -> str:
    """What the figures are, and which of them the order is by."""
    over = f"mean ± std over seeds (n = {seeds})" if seeds > 1 else "one seed each"
    ranked = "; ranked by the validation split (val), the best marked *" if any(item["best"] for item in rows) else ""
    return f"{'top-1' if key == 'top1' else key} % on the test split, {over}{ranked}"


def short(word: str) -> str:
    """`loss.kd.temperature=2` as `temperature=2`; the full keys are in the files."""
    key, _, value = word.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def shown(value: dict[str, float | None] | None, key: str, signed: bool = False) -> str:
    """A mean as tables show its metric, with the deviation where there is one; differences of accuracies have their sign."""
    if value is None or value["mean"] is None or not math.isfinite(value["mean"]):
        return ""
    show = by_key(key).show
    sign = "+" if signed and value["mean"] >= 0 else ""
    deviation = value["std"]
    return sign + show(value["mean"]) + (f"±{show(deviation)}" if deviation is not None else "")
