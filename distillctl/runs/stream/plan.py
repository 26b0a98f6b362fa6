"""What a stream will do, as a value that `--plan` shows and Python reads. Builds no net, reads no sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillctl.config import ModelConfig, StreamConfig
from distillctl.errors import ConfigError
from distillctl.outputs import RUN_FILE
from distillctl.runs.stream import world
from distillctl.runs.stream.driver import detector_kind, signal_kind
from distillctl.runs.stream.guide import teacher_kind
from distillctl.runs.stream.journal import FILE as JOURNAL
from distillctl.runs.stream.learner import asks_of_new
from distillctl.runs.stream.releases import DEPLOYED, HISTORY, SCRIPT, VERSIONS, WEIGHTS
from distillctl.runs.stream.saving import STAGE
from distillctl.state import BEFORE, NEWEST


@dataclass(frozen=True)
class Teaches:
    """kind: none, ema, student or model, as `stream.teacher`; model: its name where it is one. taught: of which samples it is asked, all or memory.

    refresh: never, every or drift; every: samples between two; steps: of one, of a model that learns.
    """

    kind: str
    model: str | None
    taught: str | None
    refresh: str
    every: int | None
    steps: int | None


@dataclass(frozen=True)
class Keeps:
    """The memory: samples, those that a step learns beside the new ones, and by what they stay."""

    size: int
    batch_size: int
    select: str


@dataclass(frozen=True)
class Detects:
    """What tells a drift, by what signal, and whether the memory is emptied then."""

    name: str
    signal: str
    forget: bool


@dataclass(frozen=True)
class Releases:
    """What a model passes before it is deployed. every: samples between two looks, None: at the end alone; held_out: samples that are compared, of a share of all.

    by: difference, with its tolerance, or significant, with its alpha. keeps: versions that stay, None: all.
    """

    every: int | None
    held_out: int
    share: float
    by: str
    tolerance: float
    alpha: float
    keeps: int | None


@dataclass(frozen=True)
class StreamPlan:
    """source: dataset, folders, csv or watch; where: the data set's name, or a path; order: in words. samples: the most that are learnt, None: all that come.

    student: what learns; loss: its terms; beside: what learns the same for comparison. writes: files and folders in the run's own.
    """

    source: str
    where: str
    order: str
    samples: int | None
    batch_size: int
    student: str
    loss: tuple[str, ...]
    teacher: Teaches
    beside: tuple[str, ...]
    memory: Keeps
    detector: Detects | None
    gate: Releases
    save_every: int
    writes: tuple[str, ...]

    final = "student"  # the row that it is about


def plan(config: StreamConfig) -> StreamPlan:
    """Raises ConfigError, and DataError where `stream.path` is not there."""
    if config.action != "run":
        raise ConfigError(f"action={config.action} learns nothing, and there is nothing to plan; leave it out")
    stage, kind, who = config.stream, world.kind_of_source(config), teacher_kind(config)
    batch_size = config.trainer.batch_size
    assert isinstance(batch_size, int), "check_stream says so"
    model = named(config.teacher) if who == "model" else None
    learns = who == "model" and stage.refresh != "never"
    detector = detector_kind(config)
    # whether a table has labels is known once it is read: here what `dataset.labels` says
    signal = signal_kind(config, config.dataset.labels, who != "none")
    return StreamPlan(
        source=kind,
        where=config.dataset.name if kind == "dataset" else str(stage.path),
        order=order(config, kind),
        samples=stage.samples,
        batch_size=batch_size,
        student=named(config.student),
        loss=tuple(config.loss),
        teacher=Teaches(
            who,
            model,
            None if who == "none" else "all" if asks_of_new(config) else "memory",
            stage.refresh,
            stage.refresh_every if stage.refresh == "every" else None,
            stage.refresh_steps if learns else None,
        ),
        beside=tuple(dict.fromkeys(stage.beside)) if who != "none" else (),
        memory=Keeps(config.memory.size, config.memory.batch_size or batch_size, config.memory.select or "reservoir"),
        detector=Detects(detector, signal, stage.forget) if detector is not None else None,
        gate=Releases(
            stage.release_every, stage.holdout_size, stage.holdout, stage.gate, stage.tolerance, stage.alpha, stage.keep_versions
        ),
        save_every=stage.save_every,
        writes=files(kind),
    )


def order(config: StreamConfig, kind: str) -> str:
    """In which samples come."""
    stage = config.stream
    if kind == "dataset":
        how = {"abrupt": "one after the other", "gradual": "that overlap"}
        found = "all classes mixed" if stage.drift == "none" else f"{stage.phases} stretches of classes, {how[stage.drift]}"
        return found + (f"; labels drawn anew from {stage.shuffled[0]:,} to {stage.shuffled[1]:,}" if stage.shuffled else "")
    return {"folders": "date by date", "csv": "that of its rows", "watch": "as they come"}[kind]


def named(model: ModelConfig) -> str:
    """What people call a model."""
    return str(model.checkpoint) if model.name == "recorded" and model.checkpoint is not None else model.name


def files(kind: str) -> tuple[str, ...]:
    """What the run's folder will hold."""
    stage = Path(STAGE)
    found = [
        RUN_FILE,
        "summary.json",
        stage / NEWEST,
        stage / BEFORE,
        stage / "metrics.jsonl",
        *([stage / JOURNAL] if kind == "watch" else []),
    ]
    return (*(str(place) for place in found), *(f"{DEPLOYED}/{name}" for name in (WEIGHTS, SCRIPT, HISTORY)), f"{VERSIONS}/")
