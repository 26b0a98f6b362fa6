"""What somebody can get wrong about a sequence of tasks, found before any data are read; and with them, before the first task."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distillctl.build import arguments_of, build
from distillctl.config import ImageSetConfig, LifelongConfig, chosen
from distillctl.errors import ConfigError
from distillctl.losses.weighted import build_loss
from distillctl.models.adapter import Classifier
from distillctl.models.taps import Taps
from distillctl.runs.bundle import Bundle
from distillctl.runs.lifelong.plan import has_fixed_teacher, strategy_of, task_count
from distillctl.runs.session import Session
from distillctl.strategies.memory import Memory
from distillctl.strategies.strategy import Strategy
from distillctl.strategies.task import Task


def check_strategy(config: LifelongConfig) -> None:
    """Make the strategy once with stand-ins: what it thinks of its own keys must not wait until data are read. Raises ConfigError."""
    found = strategy_of(config.strategy)
    student = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), (0.0,) * 3, (1.0,) * 3, taps=Taps({}))
    memory = Memory(1, 1, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2, 0, lambda inputs, index, view: inputs) if found.replays else None
    stand_ins: dict[str, Any] = {"task": Task(1, 2, 0, 1, 2), "old": None, "memory": memory, "past": {}, "seed": 0}
    asked = arguments_of(found).parameters
    given = {name: value for name, value in stand_ins.items() if name in asked and name not in config.strategy}
    build(config.strategy, Strategy, "strategy", student, build_loss(config.loss), None, **given)


def check_sequence(config: LifelongConfig) -> None:
    """Whether tasks, teacher and strategy go together. Raises ConfigError."""
    task_count(config)
    found, lifelong, loss = strategy_of(config.strategy), config.lifelong, build_loss(config.loss)
    if config.trainer.select != "last":
        raise ConfigError(
            f"trainer.select={config.trainer.select}: the last epoch of each task counts, as what is kept belongs to it; leave trainer.select out"
        )
    if lifelong.folders and (config.dataset.root is not None or config.tasks != type(config)().tasks):
        key = "dataset.root" if config.dataset.root is not None else "tasks"
        raise ConfigError(f"{key} and lifelong.folders both say what the tasks are; leave one of them out")
    if lifelong.first is not None and (isinstance(config.tasks, list) or lifelong.folders):
        raise ConfigError(f"lifelong.first={lifelong.first}: the classes of each task are given already; leave it out")
    check_teacher(config, found)
    learns_from_one = lifelong.update == "both" or has_fixed_teacher(config) or found.distils and not found.own_formula
    if learns_from_one and not loss.needs_teacher:
        raise ConfigError(
            f"loss={'+'.join(loss.terms)}: no term of it reads a teacher, and strategy={found.name} learns from one; take loss=kd"
        )
    check_labels(config, found)
    if found.herds and config.memory.select is not None:
        raise ConfigError(
            f"memory.select={config.memory.select}: strategy={found.name} chooses what it keeps by herding; leave memory.select out"
        )


def check_teacher(config: LifelongConfig, found: type[Strategy]) -> None:
    teacher, update = config.teacher, config.lifelong.update
    if update == "student" and teacher.name != "recorded" and not has_fixed_teacher(config):
        raise ConfigError(
            f"teacher={teacher.name} is neither trained nor pretrained: lifelong.update=both lets it learn the tasks, "
            "teacher.checkpoint=<run folder or file> takes one that knows them"
        )
    if found.own_formula and (update == "both" or has_fixed_teacher(config)):
        raise ConfigError(
            f"strategy={found.name} learns from labels and from its old self alone, and would not read the teacher; leave it out"
        )
    if found.distils and (update == "both" or has_fixed_teacher(config)) and build_loss(config.loss).taps("teacher"):
        raise ConfigError(
            f"strategy={found.name} asks the old student and the teacher by one loss, and this one reads features, which differ; take loss=kd"
        )
    if update == "student" and has_fixed_teacher(config) and config.lifelong.head == "growing":
        raise ConfigError("lifelong.head=growing has outputs for some classes, and the teacher for all; take lifelong.head=full")
    if found.at_once and update == "both":
        raise ConfigError(f"strategy={found.name} has no tasks in turn for the teacher to move through; leave out lifelong.update=both")


def check_labels(config: LifelongConfig, found: type[Strategy]) -> None:
    """Whether the strategy can read labels as the data have them: a memory has one of each sample, and what distils tells old classes from new."""
    data = config.dataset
    if isinstance(data, ImageSetConfig) and (data.augment.mixup > 0 or data.augment.cutmix > 0) and (found.replays or found.distils):
        key = "mixup" if data.augment.mixup > 0 else "cutmix"
        does = "keeps samples with a label each" if found.replays else "reads one label of each sample"
        raise ConfigError(f"dataset.augment.{key}: strategy={found.name} {does}, and mixed ones have two; set it to 0")
    for name, term in build_loss(config.loss).terms.items() if found.distils and not found.own_formula else ():
        if term.needs_teacher and getattr(term, "needs_labels", False):
            raise ConfigError(
                f"loss.{name} compares answers by a sample's label, and the old model of strategy={found.name} knows no new one; take loss=lwf"
            )
    if data.balance == "class_weights" and found.distils:
        raise ConfigError(
            f"dataset.balance=class_weights: strategy={found.name} asks labels of some classes at a time; take dataset.balance=oversample"
        )


def check_with_data(session: Session, whole: Bundle) -> None:
    """What can be told once the data are read. Raises ConfigError."""
    config, world = session.config, session.runtime.world
    found, tasks = strategy_of(config.strategy), whole.tasks
    assert tasks is not None
    for split, name in ((whole.data.train, "training"), (whole.data.test, "test")):
        there = tasks.of(split)
        for number in range(1, len(tasks.own) + 1):
            if not bool((there == number).any()):
                raise ConfigError(f"tasks: task {number} has no {name} {whole.inputs.noun}")
    again = next((number for number in range(2, len(tasks.own) + 1) if min(tasks.own[number - 1]) < tasks.ends[number - 2]), None)
    if again is not None and (problem := found.about_known_classes(config.strategy)):
        raise ConfigError(f"lifelong.folders: task {again} has classes of earlier ones, and {problem}")
    if not found.replays:
        return
    if not whole.inputs.steady:
        raise ConfigError(
            f"strategy={found.name}: its memory keeps samples of one shape, and {whole.inputs.noun} have different lengths; take strategy=ewc, lwf or lwf_mc"
        )
    classes, size = len(tasks.classes), config.memory.size
    if size < classes:
        raise ConfigError(f"memory.size={size} is less than the {classes} classes, one sample of each; raise it")
    once = config.memory.batch_size or chosen(config.trainer.batch_size)
    pieces = world * config.trainer.accumulate
    if min(once, size) < 2 * pieces:
        raise ConfigError(
            f"memory.batch_size={once} leaves less than 2 samples for each of {pieces} pieces of a batch; raise it, or memory.size"
        )
    cut_from_files = isinstance(whole.data.train.inputs, list) and getattr(config.dataset, "augment", None) is not None
    if cut_from_files and config.dataset.augment.crop == "resized":
        raise ConfigError(
            "dataset.augment.crop=resized cuts views out of files, and a memory keeps whole images; take dataset.augment.crop=pad or dataset.in_memory=always"
        )
