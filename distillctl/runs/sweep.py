"""A sweep: all its jobs checked before the first, and one table over them at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from distillctl import compose
from distillctl.config import FitConfig
from distillctl.errors import ConfigError, UserError
from distillctl.runs.sweep_table import group, print_table, write
from distillctl.terminal import complain_of, say

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
