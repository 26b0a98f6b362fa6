"""What would fail later, found before it costs anything: first without data, then with it, before the first step."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillctl.build import build, find_class
from distillctl.config import FinetuneStageConfig, ModelConfig
from distillctl.errors import ConfigError, UserError
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.models import catalogue, partial
from distillctl.models.adapter import Classifier
from distillctl.models.committee import in_any_order
from distillctl.models.obtain import Images, check_obtainable, planned, source_of
from distillctl.models.taps import LOGITS
from distillctl.optimizers import make_optimizer
from distillctl.runs import keeping, unlabelled
from distillctl.runs.plan import labels_only, peer_models, reads, teacher_is_read, training_attack
from distillctl.runs.session import Session
from distillctl.runs.teachers import check_is_trained, members_of, planned_teacher
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
            raise type(first)("\n".join(dict.fromkeys(str(error) for error in self.found)))


def preflight(session: Session) -> None:
    """Find all that would fail later, before the first step: architectures, checkpoints, classes, sizes."""
    config, problems = session.config, Problems([])
    for model, key, taps in models_to_come(config):
        problems.attempt(
            lambda model=model, key=key, taps=taps: check_obtainable(in_any_order(model, session.images, key), session.images, key, taps)
        )
        problems.attempt(lambda model=model, key=key: check_method(session, model, key))
    problems.attempt(lambda: check_part(session))
    problems.attempt(lambda: check_batches(session))
    problems.report()
    if line := unlabelled.remark(config):
        session.console.say(line)


def check_part(session: Session) -> None:
    """Whether the student has the parts that fine-tuning is to train."""
    config = session.config
    budget: FinetuneStageConfig | None = getattr(config, "finetune", None)
    if budget is not None and budget.epochs and not partial.trains_all_alike(budget):
        net = planned(config.student, source_of(config.student, "student")[1], session.images, "student")
        partial.check(net.module, net.input_size, budget, net.name)


def check_method(session: Session, model: ModelConfig, key: str) -> None:
    """What the method of distilling asks of this net, if anything."""
    config = session.config
    if hasattr(config, "distill") and config.distill.epochs:
        method = find_class(config.method, Method, "method")
        method.check_net(lambda: planned(model, source_of(model, key)[1], session.images, key), key)


def models_to_come(config: Any) -> list[tuple[ModelConfig, str, tuple[str, ...]]]:
    """Every model that the run will build, the key it comes from, and what will be tapped in it."""
    if not (hasattr(config, "distill") and config.distill.epochs):
        teacher = planned_teacher(config.teacher) if hasattr(config, "teacher") else []
        return teacher + ([(config.student, "student", ())] if hasattr(config, "student") else [])
    loss, method = build_loss(config.loss), config.method
    taught = tuple(dict.fromkeys((*loss.taps("student"), *reads(method, "student"))))
    teaching = tuple(dict.fromkeys((*loss.taps("teacher"), *reads(method, "teacher"))))
    found = planned_teacher(config.teacher, teaching) if teacher_is_read(config) else []
    found += [(ModelConfig(name=name), f"assistants.{number}", taught + teaching) for number, name in enumerate(config.assistants)]
    found.append((config.student, "student", taught + (teaching if config.generations > 1 else ())))
    return found + [(model, f"method.peers.{number}", taught) for number, model in enumerate(peer_models(method).values())]


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
    problems.attempt(lambda: unlabelled.check(config))
    problems.attempt(lambda: make_optimizer(config.optimizer, [torch.nn.Parameter(torch.zeros(1))], 1.0))
    problems.attempt(lambda: build(config.schedule, Schedule, "schedule"))  # type: ignore[type-abstract]
    if hasattr(config, "method"):
        problems.attempt(lambda: find_class(config.method, Method, "method").check_loss(unlabelled.loss_of(config)))
        problems.attempt(lambda: peer_models(config.method))
        problems.attempt(lambda: rehearse(config))
        problems.attempt(lambda: check_head_learns(config))
        problems.attempt(lambda: check_somebody_teaches(config))
        problems.attempt(lambda: keeping.check(config))


def check_head_learns(config: Any) -> None:
    """A loss on features alone would leave the student's classifier as random as it began."""
    terms = unlabelled.loss_of(config).terms
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
    for key, asked in (("assistants", config.assistants), ("generations", config.generations > 1)):
        if asked:
            raise ConfigError(
                f"{key}={getattr(config, key)}: neither method nor loss reads a teacher here; take method=distill and a loss that does, as loss=kd"
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
        "images": Images(("a", "b"), 8, classifier.mean, classifier.std),  # type: ignore[arg-type]
        "peers": [],
        "seed": 0,
    }
    given = {name: value for name, value in stand_ins.items() if name in asked and name not in node}
    try:
        build(node, Method, "method", classifier, build_loss(config.loss), teacher, **given)
    except Exception as error:  # or it is about a stand-in, and says nothing: the real nets are looked at by `check_net`
        if isinstance(error, ConfigError) and str(error).startswith("method."):
            raise


def check_weights(config: Any, problems: Problems) -> None:
    """The files of weights that are named, and whether the teacher has any."""
    teacher = hasattr(config, "teacher") and problems.attempt(lambda: teacher_is_read(config)) is not False
    models = members_of(config.teacher) if teacher else {}
    for key, model in {**models, "student": getattr(config, "student", None)}.items():
        if model is not None:
            problems.attempt(lambda model=model, key=key: check_model(model, key))
    for key, model in models.items():
        problems.attempt(lambda model=model, key=key: check_is_trained(config, key, model))


def check_model(model: ModelConfig, role: str) -> None:
    source_of(model, role)
    if model.source == "own":
        find_class({"_target_": model._target_}, nn.Module, role)
    elif model.name != "recorded":
        catalogue.resolve(model.name, model.source, role)


def check_batches(session: Session) -> None:
    size, count = session.config.trainer.batch_size, len(session.data.train)
    if size > count:
        raise ConfigError(f"trainer.batch_size={size} is more than the {count} training images; lower it")
    least = size // session.runtime.world // session.config.trainer.accumulate
    if least < 2 and size > 1:
        raise ConfigError(
            f"trainer.batch_size={size} leaves pieces of {least} image; batch norm needs 2: lower trainer.accumulate or devices"
        )
