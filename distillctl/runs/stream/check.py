"""What somebody can get wrong about a stream, found before any data are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distillctl.build import build
from distillctl.config import ALONE, StreamConfig, TextSetConfig, check_named
from distillctl.errors import ConfigError
from distillctl.losses.weighted import build_loss
from distillctl.models.obtain import source_of
from distillctl.optimizers import make_optimizer
from distillctl.runs.check import Problems, check_model
from distillctl.runs.draft import labels_only
from distillctl.runs.sources import is_named, is_ready
from distillctl.runs.stream import world
from distillctl.runs.stream.detector import library
from distillctl.runs.stream.driver import detector_kind
from distillctl.runs.stream.guide import teacher_kind
from distillctl.schedules import Constant, Schedule


def check_stream(config: StreamConfig) -> None:
    """All that can be found without data; raises the problems at once."""
    problems = Problems([])
    problems.attempt(lambda: build_loss(config.loss))
    problems.attempt(lambda: build_loss(labels_only(config.loss)))
    problems.attempt(lambda: make_optimizer(config.optimizer, [nn.Parameter(torch.zeros(1))], 1.0))
    problems.attempt(lambda: check_engine(config))
    problems.attempt(lambda: check_student(config))
    problems.attempt(lambda: check_teacher(config))
    problems.attempt(lambda: check_refresh(config))
    problems.attempt(lambda: check_order(config))
    problems.attempt(lambda: library() if detector_kind(config) is not None else None)
    problems.report()
    world.kind_of_source(config)
    check_named(config.dataset)


def check_engine(config: StreamConfig) -> None:
    if isinstance(config.dataset, TextSetConfig):
        raise ConfigError(
            f"dataset={config.dataset.name}: a stream's memory keeps samples of one shape, and texts have different lengths; distillctl train learns from them"
        )
    trainer, augment = config.trainer, getattr(config.dataset, "augment", None)
    if not isinstance(build(config.schedule, Schedule, "schedule"), Constant):  # type: ignore[type-abstract]
        raise ConfigError("schedule: a stream has no end that a learning rate could fall towards; take schedule=constant")
    if not isinstance(trainer.batch_size, int):
        raise ConfigError(
            f"trainer.batch_size={trainer.batch_size}: a stream is cut into batches before its size is known; pass a number, as 10"
        )
    refused: dict[str, Any] = {
        "trainer.devices": (trainer.devices != 1, "a stream is learnt by one process, in its order; leave it out"),
        "trainer.max_steps": (trainer.max_steps is not None, "pass stream.samples=N"),
        "trainer.max_minutes": (trainer.max_minutes is not None, "pass stream.samples=N"),
        "trainer.compile": (trainer.compile, "its batches may have any number of samples; leave it out"),
        "trainer.select_by": (trainer.select_by is not None, "the gate chooses by what was held out; leave it out"),
        "trainer.early_stopping_epochs": (trainer.early_stopping_epochs is not None, "it has no epochs; pass stream.samples=N"),
        "dataset.balance": (config.dataset.balance != "none", "nobody knows how many of a class will come; take memory.select=balanced"),
        "objective": (config.objective is not None, "a sweeper is told its accuracy before learning; leave it out"),
        "trainer.ema_decay": (trainer.ema_decay > 0, "an average of the weights teaches here: stream.teacher=ema stream.ema_decay=0.999"),
        "dataset.augment.mixup": (augment is not None and augment.mixup > 0, "a memory keeps samples with a label each; set it to 0"),
        "dataset.augment.cutmix": (augment is not None and augment.cutmix > 0, "a memory keeps samples with a label each; set it to 0"),
    }
    for key, (given, way_out) in refused.items():
        if given:
            raise ConfigError(f"{key} does not go with a stream: {way_out}")


def check_student(config: StreamConfig) -> None:
    check_model(config.student, "student")
    loss = build_loss(config.loss)
    tapped = [name for name, term in loss.terms.items() if getattr(term, "teacher_taps", ()) or getattr(term, "prepare", None) is not None]
    if tapped:
        raise ConfigError(
            f"loss.{tapped[0]}: it reads features or has weights of its own, and a stream's teacher is asked for its answers alone; take loss=kd"
        )
    if loss.scheduled:
        item = loss.scheduled[0]
        raise ConfigError(
            f"loss.{item.term}.{item.name} changes over epochs, and a stream has none; pass loss.{item.term}.{item.name}={item.value:g}"
        )
    if not config.dataset.labels and config.memory.select == "balanced":
        raise ConfigError("memory.select=balanced counts classes, and dataset.labels=false; take memory.select=reservoir")


def check_teacher(config: StreamConfig) -> None:
    who, stage = teacher_kind(config), config.stream
    if unknown := [name for name in stage.beside if name != ALONE]:
        raise ConfigError(f"stream.beside={stage.beside}: {unknown[0]} must be {ALONE}; stream.beside=[] for none")
    if who != "model" and is_named(config.teacher):
        raise ConfigError(f"stream.teacher={who} and teacher={config.teacher.name} are two teachers; leave one of them out")
    if who == "model" and not is_named(config.teacher):
        raise ConfigError("stream.teacher=model: no teacher is named; pass teacher=resnet20, or teacher.checkpoint=<run folder or file>")
    if who == "none":
        if not config.dataset.labels:
            raise ConfigError("dataset.labels=false: without labels somebody has to teach; pass teacher.checkpoint=<run folder or file>")
        return
    if not build_loss(config.loss).needs_teacher:
        raise ConfigError(
            f"loss={'+'.join(build_loss(config.loss).terms)}: no term of it reads a teacher, and stream.teacher={who}; take loss=kd or stream.teacher=none"
        )
    if stage.taught == "memory" and not config.dataset.labels:
        raise ConfigError("stream.taught=memory: without labels the teacher alone says what new samples are; take stream.taught=all")
    if who != "model":
        return
    if config.teacher.file is not None and stage.refresh != "never":
        raise ConfigError(
            f"stream.refresh={stage.refresh}: teacher.file={config.teacher.file} is an exported file, which learns nothing; take stream.refresh=never"
        )
    check_model(config.teacher, "teacher")
    source_of(config.teacher, "teacher")
    if config.teacher.members:
        raise ConfigError("teacher=ensemble: a stream's teacher is one model; name one")
    if not is_ready(config.teacher) and stage.refresh == "never":
        raise ConfigError(
            f"teacher={config.teacher.name} is neither trained nor pretrained, and stream.refresh=never: pass teacher.checkpoint=<run folder or file>, "
            "or let it learn the stream: stream.refresh=every stream.refresh_every=500"
        )


def check_refresh(config: StreamConfig) -> None:
    who, stage = teacher_kind(config), config.stream
    if stage.refresh == "every" and stage.refresh_every is None:
        raise ConfigError("stream.refresh=every: after how many samples is not set: pass stream.refresh_every=500")
    if stage.refresh_every is not None and stage.refresh != "every":
        raise ConfigError(
            f"stream.refresh_every={stage.refresh_every} works with stream.refresh=every, and it is {stage.refresh}; set one of them"
        )
    if stage.refresh != "never" and who in ("ema", "none"):
        what = "follows the student at each step" if who == "ema" else "is nobody"
        raise ConfigError(f"stream.refresh={stage.refresh}: stream.teacher={who} {what}; name a teacher, or take stream.teacher=student")
    if stage.refresh == "never" and who == "student":
        raise ConfigError("stream.teacher=student: with stream.refresh=never no copy is ever taken; pass stream.refresh=drift, or every")
    if stage.refresh != "never" and who == "model" and not config.dataset.labels:
        raise ConfigError(
            f"stream.refresh={stage.refresh}: a larger teacher learns by labels, and dataset.labels=false; take stream.refresh=never"
        )
    if stage.signal == "error" and not config.dataset.labels:
        raise ConfigError("stream.signal=error: without labels nobody knows an error; take stream.signal=disagreement or confidence")
    if stage.signal == "disagreement" and who == "none":
        raise ConfigError("stream.signal=disagreement: there is no teacher to disagree with; take stream.signal=error or confidence")
    if stage.signal is not None and detector_kind(config) is None:
        raise ConfigError(f"stream.signal={stage.signal}: nothing looks at it; pass stream.detector=adwin")


def check_order(config: StreamConfig) -> None:
    """What says in which order a data set comes."""
    stage = config.stream
    if stage.shuffled and (len(stage.shuffled) != 2 or not 0 <= stage.shuffled[0] < stage.shuffled[1]):
        raise ConfigError(f"stream.shuffled={stage.shuffled}: expected two positions, as stream.shuffled=[500,700]")
    usual = type(stage)()
    for name in ("shuffled", "phases", "drift"):
        if stage.path is not None and getattr(stage, name) != getattr(usual, name):
            raise ConfigError(
                f"stream.{name}={getattr(stage, name)} orders a data set, and stream.path has an order of its own; leave it out"
            )
    if stage.path is None and stage.classes:
        raise ConfigError(f"stream.classes={stage.classes}: the data set has its classes; leave it out")
