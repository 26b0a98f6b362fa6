"""A sweep: all its jobs checked before the first, and one table over them at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from distillctl import compose
from distillctl.errors import ConfigError
from distillctl.runs import sweep_folder
from distillctl.runs.jobs import check_jobs, expand
from distillctl.runs.sweep_folder import never_silent
from distillctl.runs.sweep_table import group, print_table, write
from distillctl.terminal import say

NUMBERED = "${hydra.job.num}"


class SweepReport(Callback):
    """Hydra calls this around a multirun. It makes of exceptions of callbacks warnings, which `never_silent` does not let it."""

    @never_silent
    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        command, folder = str(config.hydra.job.config_name), Path(config.hydra.sweep.dir).absolute()
        jobs = None  # other sweepers choose them as they go
        if str(config.hydra.sweeper._target_) == "hydra._internal.core_plugins.basic_sweeper.BasicSweeper":
            jobs = expand(config)
            check_jobs(command, jobs)
        if OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] != NUMBERED:  # type: ignore[index,call-overload]
            raise ConfigError("hydra.sweep.subdir: the jobs of a sweep are numbered; leave it out, the table says what each was")
        went_on = sweep_folder.claim(folder, command, compose.typed_words(config.hydra), jobs)
        if jobs is not None:
            done = sum(sweep_folder.is_done(folder / str(number)) for number in range(len(jobs)))
            state_of = f", {done} done before" if went_on else ""
            say(f"sweep: {len(jobs)} jobs, all checked{state_of}, in {folder}", patient=True)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if OmegaConf.select(config, "hydra.mode") is not None and config.hydra.mode.name == "MULTIRUN":
            say(f"\n[{int(config.hydra.job.num) + 1}] {' '.join(compose.typed_words(config.hydra))}", patient=True)

    @never_silent
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        leave_by_the_worst(Path(config.hydra.sweep.dir))


def leave_by_the_worst(folder: Path) -> None:
    """The table of what the jobs have left, and the exit code of the one that went worst. Raises SystemExit where that is not 0."""
    jobs = sweep_folder.read_jobs(folder)
    if any("stages" in job or job["error"] for job in jobs):
        rows = group(jobs)
        write(folder, jobs, rows)
        print_table(folder, jobs, rows)
    worst = max((job["exit_code"] or 0 for job in jobs), default=0)
    if worst:
        raise SystemExit(worst)
