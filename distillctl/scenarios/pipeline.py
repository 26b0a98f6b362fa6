"""The stages in a row: pretrain the teacher, distil, fine-tune, the same student alone; then measure them all, once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from distillctl.build import build, find_class
from distillctl.config import ModelConfig, StageConfig, TrainConfig
from distillctl.errors import ConfigError, UserError
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.methods.distill import Method
from distillctl.models import catalogue
from distillctl.models.obtain import check_obtainable, obtain, source_of
from distillctl.report import results
from distillctl.scenarios.measure import Candidate, measure
from distillctl.scenarios.session import Session
from distillctl.scenarios.stage import Task, make_optimizer, start_from, train
from distillctl.schedules import Schedule
from distillctl.teachers.frozen import Frozen


def run_train(session: Session) -> float:
    """All of it. Returns the top-1 of the final student, which is what a sweeper may maximise."""
    config: TrainConfig = session.config
    preflight(session)
    candidates: list[Candidate] = []
    teacher = ready_teacher(session)
    if teacher is None:
        teacher = start_from(config.teacher, train(session, pretraining(session, config.teacher, config.pretrain)))
    candidates.append(Candidate("teacher", "teacher", teacher))
    student = config.student
    if config.distill.epochs:
        student = start_from(config.student, train(session, distilling(session, student, teacher, config.distill)))
        candidates.append(Candidate("distilled", "student", student))
    if config.finetune.epochs:
        student = start_from(config.student, train(session, finetuning(session, student, config.finetune)))
        candidates.append(Candidate("fine-tuned", "student", student))
    budget = config.distill.epochs + config.finetune.epochs
    if config.baseline and budget:
        alone = train(session, Task("alone", "student", config.student, labels_only(config.loss), replace(config.distill, epochs=budget)))
        candidates.append(Candidate("alone", "student", start_from(config.student, alone)))
    return conclude(session, candidates)


def run_pretrain(session: Session) -> float:
    """A teacher, by labels."""
    config = session.config
    preflight(session)
    weights = train(session, pretraining(session, config.teacher, config.pretrain))
    return conclude(session, [Candidate("teacher", "teacher", start_from(config.teacher, weights))])


def run_distill(session: Session) -> float:
    """A student, by a teacher that is ready."""
    config = session.config
    preflight(session)
    teacher = ready_teacher(session)
    assert teacher is not None  # preflight saw to it
    weights = train(session, distilling(session, config.student, teacher, config.distill))
    return conclude(
        session, [Candidate("teacher", "teacher", teacher), Candidate("distilled", "student", start_from(config.student, weights))]
    )


def run_finetune(session: Session) -> float:
    """A student that is ready, by labels."""
    config = session.config
    preflight(session)
    before = Candidate("before", "student", config.student)
    weights = train(session, finetuning(session, config.student, config.finetune))
    after = Candidate("fine-tuned", "student", start_from(config.student, weights))
    return conclude(session, [after] if config.student.new_head else [before, after])


def pretraining(session: Session, model: ModelConfig, budget: StageConfig) -> Task:
    return Task("pretrain", "teacher", model, labels_only(session.config.loss), budget)


def distilling(session: Session, student: ModelConfig, teacher: ModelConfig, budget: StageConfig) -> Task:
    machine, loss = session.runtime, build_loss(session.config.loss)
    obtained = obtain(teacher, session.images, "teacher", session.config.seed, taps=loss.taps("teacher"))
    frozen = Frozen(obtained.classifier, machine.precision, machine.device, session.config.trainer.channels_last)
    return Task("distill", "student", student, loss, budget, frozen, session.config.method)


def finetuning(session: Session, student: ModelConfig, budget: StageConfig) -> Task:
    return Task("finetune", "student", student, labels_only(session.config.loss), budget)


def labels_only(loss: dict[str, Any]) -> WeightedSum:
    """The loss of supervised training: cross-entropy alone, smoothed as `loss.ce` says."""
    ce = {key: value for key, value in loss.get("ce", {}).items() if key != "weight"}
    return build_loss({"ce": {"_target_": "distillctl.losses.logits.CrossEntropy", **ce}})


def ready_teacher(session: Session) -> ModelConfig | None:
    """The teacher where it needs no training here: weights of these classes are given."""
    teacher: ModelConfig = session.config.teacher
    return teacher if teacher_is_ready(teacher) else None


def teacher_is_ready(teacher: ModelConfig) -> bool:
    return bool(teacher.checkpoint or teacher.pretrained) and not teacher.new_head


def conclude(session: Session, candidates: list[Candidate]) -> float:
    """Measure on the test split, print the table, close the run."""
    rows = measure(session, candidates)
    summary = results.summary(session.config, rows)
    if session.run is not None:
        session.console.table(results.table(rows, f"{session.data.name} test, {len(session.data.test):,} images"))
        for line in results.remarks(rows):
            session.console.say(line)
        session.run.finish(summary)
        session.console.say(f"results: {session.folder / 'summary.json'}")
    return summary["top1"]


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
            raise type(first)("\n".join(dict.fromkeys(str(error) for error in self.found)))


def preflight(session: Session) -> None:
    """Find all that would fail later, before the first step: architectures, checkpoints, classes, sizes."""
    config, problems = session.config, Problems([])
    for role in ("teacher", "student"):
        if hasattr(config, role):
            taps = build_loss(config.loss).taps(role) if hasattr(config, "distill") and config.distill.epochs else ()
            problems.attempt(lambda role=role, taps=taps: check_obtainable(getattr(config, role), session.images, role, taps))
    problems.attempt(lambda: check_batches(session))
    problems.report()


def check_settings(config: Any) -> None:
    """All that can be found without data, before any of it is downloaded; raises the problems at once."""
    problems = Problems([])
    check_components(config, problems)
    check_weights(config, problems)
    problems.report()


def check_components(config: Any, problems: Problems) -> None:
    """Everything that is built from a `_target_`."""
    problems.attempt(lambda: build_loss(config.loss))
    problems.attempt(lambda: labels_only(config.loss))
    problems.attempt(lambda: make_optimizer(config.optimizer, [torch.nn.Parameter(torch.zeros(1))], 1.0))
    problems.attempt(lambda: build(config.schedule, Schedule, "schedule"))  # type: ignore[type-abstract]
    if hasattr(config, "method"):
        problems.attempt(lambda: find_class(config.method, Method, "method"))


def check_weights(config: Any, problems: Problems) -> None:
    """The files of weights that are named, and whether the teacher has any."""
    for role in ("teacher", "student"):
        if hasattr(config, role):
            problems.attempt(lambda role=role: check_model(getattr(config, role), role))
    if hasattr(config, "teacher"):
        problems.attempt(lambda: check_teacher_is_trained(config))


def check_model(model: ModelConfig, role: str) -> None:
    source_of(model, role)
    if model.source == "own":
        find_class({"_target_": model._target_}, nn.Module, role)
    elif model.name != "recorded":
        catalogue.resolve(model.name, model.source, role)


def check_teacher_is_trained(config: Any) -> None:
    """A teacher with random weights teaches noise."""
    if teacher_is_ready(config.teacher) or hasattr(config, "pretrain") and config.pretrain.epochs or config.teacher.name == "recorded":
        return
    way_out = "teacher.checkpoint=<run folder or file>, teacher.pretrained=true"
    if hasattr(config, "pretrain"):
        raise ConfigError(f"teacher={config.teacher.name} is neither trained nor pretrained: set {way_out} or pretrain.epochs=N")
    raise ConfigError(f"teacher={config.teacher.name} is neither trained nor pretrained: set {way_out}, or run distillctl pretrain first")


def check_batches(session: Session) -> None:
    size, count = session.config.trainer.batch_size, len(session.data.train)
    if size > count:
        raise ConfigError(f"trainer.batch_size={size} is more than the {count} training images; lower it")
    least = size // session.runtime.world // session.config.trainer.accumulate
    if least < 2 and size > 1:
        raise ConfigError(
            f"trainer.batch_size={size} leaves pieces of {least} image; batch norm needs 2: lower trainer.accumulate or devices"
        )
