"""The part of a plan that is about sequences of tasks: a step for each task, of the strategy and of what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from distillctl.build import find_class
from distillctl.config import BESIDE, ENSEMBLE, LifelongConfig, MemberConfig, TeacherConfig
from distillctl.errors import ConfigError
from distillctl.runs.draft import Draft
from distillctl.runs.sources import Given, MadeBy, Several, Source, is_named, is_ready
from distillctl.runs.steps import Plan, Row
from distillctl.strategies.strategy import Strategy

FLOOR = {"_target_": "distillctl.strategies.strategy.Strategy"}
CEILING = {"_target_": "distillctl.strategies.strategy.Joint"}
OWN = "task"  # what the steps of the strategy itself are called


def sequences(draft: Draft, config: LifelongConfig) -> Plan:
    """The strategy's tasks, and beside them those of the student without a teacher, of plain fine-tuning, and all tasks at once."""
    name, teacher = strategy_of(config.strategy).name, None
    if not config.dataset.labels:
        raise ConfigError("dataset.labels=false: tasks are learnt by labels; leave it out")
    if unknown := [other for other in config.lifelong.beside if other not in BESIDE]:
        raise ConfigError(
            f"lifelong.beside={config.lifelong.beside}: {unknown[0]} must be one of {', '.join(BESIDE)}; lifelong.beside=[] for none"
        )
    if config.lifelong.update == "both":
        if not is_named(config.teacher):
            raise ConfigError("lifelong.update=both: name the teacher that learns the tasks too, as in teacher=resnet20")
        made = sequence(draft, config, "teacher", "teacher", Given(config.teacher, "teacher"), config.strategy)
        draft.rows.append(Row("teacher", "teacher", made))
        teacher = "teacher"
    elif has_fixed_teacher(config):
        draft.rows.append(Row("teacher", "teacher", fixed(config)))
        teacher = "fixed"
    student = Given(config.student, "student")
    draft.rows.append(Row(name, "student", sequence(draft, config, OWN, "student", student, config.strategy, teacher), own=True))
    beside = {"alone": config.strategy, "sgd": FLOOR, "joint": CEILING}
    for other in dict.fromkeys(config.lifelong.beside):
        if other == name or other == "alone" and teacher is None:
            continue
        draft.rows.append(Row(other, "student", sequence(draft, config, other, "student", student, beside[other])))
    return draft.done(name)


def sequence(
    draft: Draft, config: LifelongConfig, called: str, role: str, start: Given, strategy: Mapping[str, Any], teacher: str | None = None
) -> MadeBy:
    """A step for each task, each from where the one before ended. teacher: whose, a sequence of steps or the one of the config."""
    found, count = strategy_of(strategy), task_count(config)
    groups = [tuple(range(1, count + 1))] if found.at_once else [(number,) for number in range(1, count + 1)]
    made: MadeBy | None = None
    for numbers in groups:
        name = called if found.at_once else f"{called}-{numbers[0]}"
        guide: Source | None = None
        if teacher is not None:
            guide = fixed(config) if teacher == "fixed" else MadeBy(f"{teacher}-{numbers[-1]}")
        distils = found.distils and numbers[0] > 1
        taught = {"loss": config.loss} if guide is not None or distils else {}
        made = draft.train(
            name,
            role,
            made or start,
            config.lifelong,
            method=strategy,
            teacher=guide,
            tasks=numbers,
            sequence=called,
            **taught,
        )
    assert made is not None
    return made


def fixed(config: LifelongConfig) -> Several:
    """A teacher that is ready and stays as it is; asked as a committee of one, which puts its classes into the order of the tasks."""
    member = MemberConfig(**{entry.name: getattr(config.teacher, entry.name) for entry in fields(MemberConfig)})
    return Several(TeacherConfig(name=ENSEMBLE), {"one": Given(member, "teacher")})


def has_fixed_teacher(config: LifelongConfig) -> bool:
    return is_ready(config.teacher)


def strategy_of(node: Mapping[str, Any]) -> type[Strategy]:
    """Its class. Raises ConfigError."""
    return find_class(node, Strategy, "strategy")


def task_count(config: LifelongConfig) -> int:
    """How many tasks there are, which needs no data. Raises ConfigError."""
    if config.lifelong.folders:
        if len(config.lifelong.folders) < 2:
            raise ConfigError(f"lifelong.folders={config.lifelong.folders}: a sequence has two tasks or more; name a folder for each")
        return len(config.lifelong.folders)
    tasks = config.tasks
    if isinstance(tasks, bool) or not isinstance(tasks, (int, list)):
        raise ConfigError(f"tasks={tasks}: expected how many tasks there are, or the classes of each, as in tasks=[[cat,dog],[ship,truck]]")
    if isinstance(tasks, list):
        if not all(isinstance(group, list) and group for group in tasks):
            raise ConfigError(f"tasks={tasks}: expected a list of classes for each task, as in tasks=[[cat,dog],[ship,truck]]")
        count = len(tasks)
    else:
        count = tasks
    if count < 2:
        raise ConfigError(f"tasks={tasks}: a sequence has two tasks or more; for one task: distillctl train")
    return count
