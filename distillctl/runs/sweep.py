"""A sweep: all its jobs checked before the first, and one table over them at the end."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from distillctl import compose, state
from distillctl.config import FitConfig
from distillctl.errors import ConfigError, UserError
from distillctl.metrics.metric import METRICS
from distillctl.report.console import Table, Terminal
from distillctl.terminal import Stream, complain_of, say

MEASURED = tuple(metric.key for metric in METRICS if metric.over_seeds)
TRAINING = ("train", "pretrain", "distill", "finetune")
FAILURE_FILE = "failure.json"


class SweepReport(Callback):
    """Hydra calls this around a multirun. It reports exceptions of callbacks as warnings only, so failures leave by SystemExit."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if str(config.hydra.sweeper._target_) != "hydra._internal.core_plugins.basic_sweeper.BasicSweeper":
            return  # other sweepers choose their jobs as they go
        try:
            jobs = expand(config)
            check_jobs(str(config.hydra.job.config_name), jobs)
        except UserError as error:
            complain_of(error)
            raise SystemExit(error.exit_code) from None
        say(f"sweep: {len(jobs)} jobs, all checked, in {config.hydra.sweep.dir!s}", patient=True)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if OmegaConf.select(config, "hydra.mode") is not None and config.hydra.mode.name == "MULTIRUN":
            say(f"\n[{int(config.hydra.job.num) + 1}] {' '.join(compose.typed_words(config.hydra))}", patient=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder, trains=str(config.hydra.job.config_name) in TRAINING)
        if not any("stages" in job or job["error"] for job in jobs):
            return
        rows = group(jobs)
        write(folder, jobs, rows)
        print_table(folder, jobs, rows)
        worst = max((job["exit_code"] or 0 for job in jobs), default=0)
        if worst:
            raise SystemExit(worst)


def expand(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's basic sweeper will make them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    params = OmegaConf.to_container(config.hydra.sweeper.params) if config.hydra.sweeper.params else {}
    assert isinstance(params, dict)
    given = [f"{key!s}={value}" for key, value in params.items()] + compose.typed_words(config.hydra)
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None)
    return jobs


def check_jobs(command: str, jobs: Sequence[Sequence[str]]) -> None:
    """Compose and check every job; raises ConfigError with all problems, each named by the overrides of its job."""
    from hydra import compose as hydra_compose

    from distillctl.runs.check import Problems, check_components, check_weights, given_models
    from distillctl.runs.plan import plan

    found: dict[str, str] = {}
    models: set[str] = set()
    for number, overrides in enumerate(jobs):
        problems = Problems([])
        try:
            config = compose.typed(hydra_compose(command, list(overrides)))
            if isinstance(config, FitConfig):
                check_components(config, problems)
                if not problems.found:
                    plan(config)
                used = repr(given_models(config))
                if used not in models:  # large files are read, so once is enough
                    check_weights(config, problems)
                models.add(used)
        except Exception as error:
            explained = compose.explain(error, command, list(overrides))
            if explained is None:
                raise
            problems.found.append(explained)
        for problem in problems.found:
            for line in problem.problems:
                found.setdefault(line, f"job {number + 1} of {len(jobs)}")
    if found:
        raise ConfigError(*(f"{line} ({job}; none was started)" for line, job in found.items()))


def read_jobs(folder: Path, trains: bool) -> list[dict[str, Any]]:
    """What each job left behind: its overrides, its summary, or why it has none."""
    jobs = []
    for place in sorted((item for item in folder.iterdir() if item.name.isdigit()), key=lambda item: int(item.name)):
        overrides_file = place / ".hydra" / "overrides.yaml"
        overrides = yaml.safe_load(overrides_file.read_text()) if overrides_file.is_file() else []
        run = json.loads((place / "run.json").read_text()) if (place / "run.json").is_file() else {}
        job: dict[str, Any] = {"job": int(place.name), "overrides": overrides, "error": run.get("error"), "exit_code": run.get("exit_code")}
        if run.get("status") == "done" and (place / "summary.json").is_file():
            job |= json.loads((place / "summary.json").read_text())
            job["stages"] = sorted(run["stages"])
            job["own"] = [row["name"] for row in run.get("plan", {}).get("rows", ()) if row["own"]]
        elif (place / FAILURE_FILE).is_file():  # it failed before it had a run.json, or its command has none
            job |= json.loads((place / FAILURE_FILE).read_text())
        elif trains and not job["error"]:
            job |= {"error": "did not finish", "exit_code": job["exit_code"] or 70}
        jobs.append(job)
    return jobs


def group(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for all seeds of equal settings: mean and sample standard deviation of what was measured."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        groups.setdefault(" ".join(item for item in varying(job, jobs) if not item.startswith("seed=")), []).append(job)
    return [row(setting, members) for setting, members in groups.items()]


def varying(job: dict[str, Any], jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The overrides of a job that not all jobs have."""
    return [item for item in job["overrides"] if any(item not in other["overrides"] for other in jobs)]


def row(setting: str, members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    done = [job for job in members if "rows" in job]
    result: dict[str, Any] = {
        "setting": setting,
        "n": len(done),
        "seeds": [job["seed"] for job in done],
        "failed": [{"job": job["job"], "error": job["error"]} for job in members if "rows" not in job],
        "models": {},
    }
    for name in dict.fromkeys(item["model"] for job in done for item in job["rows"]):
        mine = [item for job in done for item in job["rows"] if item["model"] == name]
        result["models"][name] = {
            key: spread([item[key] for item in mine]) for key in MEASURED if all(item.get(key) is not None for item in mine)
        }
    result["own"] = sorted({name for job in done for name in job["own"]})
    gains = [job["gain_over_alone"] for job in done if job.get("gain_over_alone") is not None]
    if gains:
        result["gain_over_alone"] = spread(gains)
    return result


def spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def write(folder: Path, jobs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """sweep.json with jobs and rows, sweep.csv with one line a setting and model."""
    state.write_json(folder / "sweep.json", {"jobs": list(jobs), "rows": list(rows)})
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["setting", "n", "model", *(f"{key}_{part}" for key in (*MEASURED, "gain_over_alone") for part in ("mean", "std"))])
    for item in rows:
        for model, measured in item["models"].items():
            values = {**measured, "gain_over_alone": item.get("gain_over_alone") if model in item["own"] else None}
            cells = [(values.get(key) or {}).get(part) for key in (*MEASURED, "gain_over_alone") for part in ("mean", "std")]
            lines.writerow([item["setting"], item["n"], model, *cells])
    state.write_atomically(folder / "sweep.csv", [text.getvalue().encode()])


def print_table(folder: Path, jobs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """The table, and the jobs that failed by name."""
    console = Terminal(Stream(patient=True))
    seeds = max((item["n"] for item in rows), default=0)
    measured = {key for item in rows for model in item["models"].values() for key in model}
    key = "agreement" if "agreement" in measured and "top1" not in measured else "top1"
    title = f"{'top-1' if key == 'top1' else key} % on the test split, mean ± std over seeds (n = {seeds})"
    table = Table(title, padding=(0, 0))
    names = list(dict.fromkeys(name for item in rows for name in item["models"]))
    table.add_column("setting", overflow="fold", min_width=14)
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("vs alone", justify="right")
    for item in rows:
        cells = [in_points(item["models"].get(name, {}).get(key)) for name in names]
        fewer = f" (n = {item['n']})" if item["n"] != seeds else ""
        table.add_row(short(item["setting"]) + fewer, *cells, in_points(item.get("gain_over_alone"), signed=True))
    console.print()
    console.print(table)
    for job in jobs:
        if job["error"]:
            console.print(f"failed: job {job['job'] + 1} ({' '.join(job['overrides'])}): {job['error']}", style="red", soft_wrap=True)
    console.print(f"results: {folder / 'sweep.json'}, {folder / 'sweep.csv'}", soft_wrap=True)


def short(setting: str) -> str:
    """`loss.kd.temperature=2` as `temperature=2`; the full keys are in the files."""
    return " ".join(f"{item.partition('=')[0].rpartition('.')[2]}={item.partition('=')[2]}" for item in setting.split()) or "all"


def in_points(value: dict[str, float | None] | None, signed: bool = False) -> str:
    if value is None or value["mean"] is None or not math.isfinite(value["mean"]):
        return ""
    sign = "+" if signed else ""
    deviation = value["std"]
    return f"{100 * value['mean']:{sign}.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")
