"""What would fail later, found in the config alone: before any data is read, or downloaded."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillctl.build import build, find_class
from distillctl.config import (
    ANSWERS,
    API,
    FILE,
    CompressConfig,
    Distils,
    ExportConfig,
    Finetunes,
    FitConfig,
    LifelongConfig,
    ModelConfig,
    Pretrains,
    check_named,
)
from distillctl.errors import ConfigError, UserError
from distillctl.inputs.image import Images
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.models import catalogue
from distillctl.models.adapter import Classifier
from distillctl.models.obtain import source_of
from distillctl.models.taps import LOGITS
from distillctl.optimizers import make_optimizer
from distillctl.runs import answering, deployable, keeping, objective, unlabelled
from distillctl.runs.assemble import training_attack
from distillctl.runs.batches import check_before_reading
from distillctl.runs.draft import labels_only
from distillctl.runs.lifelong.check import check_sequence, check_strategy
from distillctl.runs.plan import plan, teacher_is_read
from distillctl.runs.sources import is_named, members_of, peer_models, weights_of
from distillctl.runs.steps import Plan
from distillctl.runs.teachers import check_is_trained
from distillctl.schedules import Schedule
from distillctl.teachers.frozen import Frozen


@dataclass
class Problems:
    """Collects what is wrong, so that a user learns it all at once."""

    found: list[UserError]

    def attempt(self, work: Any) -> Any:
        try:
            return work()
        except UserError as error:
            self.found.append(error)
            return None

    def report(self) -> None:
        if self.found:
            first = self.found[0]
            raise type(first)(*dict.fromkeys(problem for error in self.found for problem in error.problems))


def check_settings(config: Any) -> None:
    """All that can be found without data, before any of it is downloaded; raises the problems at once."""
    problems = Problems([])
    check_components(config, problems)
    todo = problems.attempt(lambda: plan(config))
    check_weights(config, todo, problems)
    problems.attempt(lambda: check_before_reading(config))
    problems.report()
    check_deployment(todo, config, problems)
    problems.report()
    if not todo.rows:
        raise ConfigError(
            "neither method nor loss reads a teacher here, and no stage trains a student: nothing to do; give distill.epochs=N"
        )


def check_deployment(todo: Plan, config: Any, problems: Problems) -> None:
    """The steps that cut, export and quantise."""
    problems.attempt(lambda: answering.check_plan(todo))
    problems.attempt(lambda: deployable.check_floats(todo))
    for step in todo.transforms:
        problems.attempt(lambda step=step: deployable.check_libraries(step))
    problems.attempt(lambda: deployable.check_training_for_int8(todo))
    if isinstance(config, CompressConfig):
        problems.attempt(lambda: deployable.check_labels(todo, config))


def check_components(config: Any, problems: Problems) -> None:
    """Everything that is built from a `_target_`."""
    problems.attempt(lambda: check_selection(config))
    problems.attempt(lambda: objective.names_of(config.objective))
    if not isinstance(config, FitConfig):
        return
    problems.attempt(lambda: build_loss(config.loss))
    problems.attempt(lambda: build_loss(labels_only(config.loss)))
    problems.attempt(lambda: unlabelled.check_without_labels(config))
    problems.attempt(lambda: make_optimizer(config.optimizer, [torch.nn.Parameter(torch.zeros(1))], 1.0))
    problems.attempt(lambda: build(config.schedule, Schedule, "schedule"))  # type: ignore[type-abstract]
    problems.attempt(lambda: check_weighing(config))
    if isinstance(config, LifelongConfig):
        problems.attempt(lambda: check_strategy(config))
        problems.attempt(lambda: check_sequence(config))
    if isinstance(config, Distils):
        problems.attempt(lambda: find_class(config.method, Method, "method").check_loss(build_loss(unlabelled.loss_of(config))))
        problems.attempt(lambda: peer_models(config.method))
        problems.attempt(lambda: rehearse(config))
        problems.attempt(lambda: check_head_learns(config))
        problems.attempt(lambda: check_somebody_teaches(config))
        problems.attempt(lambda: keeping.check_can_keep(config))


def check_selection(config: Any) -> None:
    """What `trainer.select_by` goes with, as far as that can be told without data."""
    key = config.trainer.select_by
    if key is not None and config.trainer.select == "last":
        raise ConfigError(f"trainer.select_by={key} is about the best epoch, and trainer.select=last ships the last; leave one of them out")


def check_weighing(config: Any) -> None:
    """Whether there is anything that `dataset.balance=class_weights` weighs; stages that learn from labels have it."""
    if isinstance(config, (Pretrains, Finetunes)):
        return
    terms = build_loss(config.loss).terms
    if config.dataset.balance == "class_weights" and not any(hasattr(term, "class_weights") for term in terms.values()):
        raise ConfigError(
            f"dataset.balance=class_weights weighs labels, and loss={'+'.join(terms)} reads none by themselves; take dataset.balance=oversample"
        )


def check_head_learns(config: Any) -> None:
    """A loss on features alone would leave the student's classifier as random as it began."""
    terms = build_loss(unlabelled.loss_of(config)).terms
    if find_class(config.method, Method, "method").trains_head or any(LOGITS in reads_of(term) for term in terms.values()):
        return
    names = ",".join(terms)
    raise ConfigError(
        f"loss={names}: no term of it reads the student's answer, so its classifier would not learn; add one, as loss=[{names},kd]"
    )


def reads_of(term: Any) -> tuple[str, ...]:
    """What a loss term reads of the student."""
    return tuple(getattr(term, "student_taps", ())) or (LOGITS,)


def check_somebody_teaches(config: Any) -> None:
    """Assistants and generations are taught, each by the one before."""
    if teacher_is_read(config):
        return
    for key, value, asked in (
        ("assistants", config.assistants, config.assistants),
        ("generations", config.generations, config.generations > 1),
    ):
        if asked:
            raise ConfigError(
                f"{key}={value}: neither method nor loss reads a teacher here; take method=distill and a loss that does, as loss=kd"
            )


def rehearse(config: Any) -> None:
    """Make the method with stand-ins: what it thinks of its own arguments must not wait until a teacher is trained."""
    node = {key: value for key, value in config.method.items() if key != "peers"}
    asked = inspect.signature(find_class(node, Method, "method")).parameters
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    classifier = Classifier(net, mean=(0.0,) * 3, std=(1.0,) * 3)
    teacher = Frozen(classifier, torch.float32, torch.device("cpu"), channels_last=False)
    stand_ins: dict[str, Any] = {
        "attack": training_attack(config, seed=0) if "attack" in asked else None,
        "inputs": Images(("a", "b"), 8, (0.0,) * 3, (1.0,) * 3),
        "peers": [],
        "seed": 0,
    }
    given = {name: value for name, value in stand_ins.items() if name in asked and name not in node}
    try:
        build(node, Method, "method", classifier, build_loss(config.loss), teacher, **given)
    except Exception as error:  # or it is about a stand-in, and says nothing: the real nets are looked at by `check_net`
        if isinstance(error, ConfigError) and str(error).startswith("method."):
            raise


def check_weights(config: Any, todo: Plan | None, problems: Problems) -> None:
    """The files of weights that are named, and whether the teacher has any. todo: None where no plan can be made."""
    taught = isinstance(config, Distils)
    reads_teacher = problems.attempt(lambda: teacher_is_read(config)) is not False if taught else isinstance(config, Pretrains)
    reads_teacher = reads_teacher or has_tasks_and_teacher(config)
    for key, model in given_models(config).items():
        teaches = key.partition(".")[0] == "teacher"
        if reads_teacher or not teaches:
            problems.attempt(lambda model=model, key=key: check_model(model, key))
    for key, model in given_models(config).items():
        if reads_teacher and key.partition(".")[0] == "teacher" and not isinstance(config, LifelongConfig):
            problems.attempt(lambda model=model, key=key: check_is_trained(config, key, model))
    if todo is not None:
        problems.attempt(lambda: deployable.check_learners(todo))
    if not problems.found:  # a checkpoint that cannot be read says nothing of its data either
        problems.attempt(lambda: check_named(config.dataset))


def given_models(config: Any) -> dict[str, ModelConfig]:
    """The models that a config describes, by their keys: the teacher or its members, the student."""
    teachers = members_of(config.teacher) if isinstance(config, (Pretrains, Distils)) or has_tasks_and_teacher(config) else {}
    students = {"student": config.student} if isinstance(config, (Distils, Finetunes, LifelongConfig)) else {}
    models = {"model": weights_of(config)} if isinstance(config, ExportConfig) else {}
    return {**teachers, **students, **models}


def has_tasks_and_teacher(config: Any) -> bool:
    """Whether it is a sequence of tasks that a teacher is named for."""
    return isinstance(config, LifelongConfig) and is_named(config.teacher)


def check_model(model: ModelConfig, role: str) -> None:
    if model.name == ANSWERS:
        return answering.check_file(model)
    if model.name == API:
        return None
    source_of(model, role)
    if model.source == "own":
        find_class({"_target_": model._target_}, nn.Module, role)
    elif model.name not in ("recorded", FILE):
        catalogue.resolve(model.name, model.source, role)
