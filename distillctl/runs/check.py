"""What would fail later, found before it costs anything: first without data, then with it, before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillctl.build import build, find_class
from distillctl.config import DatasetConfig, Distils, Finetunes, FinetuneStageConfig, ModelConfig, Pretrains, check_named
from distillctl.data import balance
from distillctl.errors import ConfigError, UserError
from distillctl.inputs.contract import Contract
from distillctl.inputs.image import Images
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.models import catalogue, partial
from distillctl.models.adapter import Classifier
from distillctl.models.committee import in_any_order, taps_of
from distillctl.models.obtain import check_answers, check_obtainable, is_own, planned, source_of
from distillctl.models.taps import LOGITS
from distillctl.optimizers import make_optimizer
from distillctl.runs import choose, keeping, objective, unlabelled
from distillctl.runs.assemble import training_attack
from distillctl.runs.batches import check_batches, check_before_reading, check_pieces
from distillctl.runs.plan import labels_only, plan, teacher_is_read
from distillctl.runs.session import Session
from distillctl.runs.steps import Given, MadeBy, Plan, Several, Source, Step, members_of, peer_models
from distillctl.runs.teachers import check_is_trained
from distillctl.schedules import Schedule
from distillctl.teachers.frozen import Frozen
from distillctl.types import to


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


def preflight(session: Session, plan: Plan) -> None:
    """Find all that would fail later, before the first step: architectures, checkpoints, classes, sizes."""
    problems = Problems([])
    for data in plan.data:
        problems.attempt(lambda data=data: check_batches(session, session.bundle(data)))
    problems.report()
    left_out = []
    for net in nets_of(plan):
        inputs = session.bundle(net.data).inputs
        left_out.append(
            problems.attempt(
                lambda net=net, inputs=inputs: check_obtainable(in_any_order(net.model, inputs, net.key), inputs, net.key, tuple(net.taps))
            )
        )
        problems.attempt(lambda net=net, inputs=inputs: check_own(session, net, inputs))
        for method in net.methods:
            problems.attempt(lambda net=net, inputs=inputs, method=method: check_net(method, net, inputs))
    for step in plan.todo:
        problems.attempt(lambda step=step: check_ranking(session, step))
        problems.attempt(lambda step=step: check_part(plan, step, session.bundle(step.data).inputs))
        problems.attempt(lambda step=step: check_pieces(session, plan, step))
    problems.attempt(lambda: check_attack(session, plan))
    tested = session.bundle(plan.test)
    told = session.config.objective
    problems.attempt(lambda: objective.check_measurable(told, plan, tested.data.val.labelled, len(tested.data.classes), tested.inputs.noun))
    problems.report()
    for line in filter(None, left_out):
        session.console.say(line)
    for data in plan.data:
        bundle = session.bundle(data)
        if line := balance.remark(bundle.data.train, bundle.data.classes, bundle.inputs.noun, data.balance):
            session.console.warn(line) if data.balance == "none" else session.console.say(line)
    if line := unlabelled.remark(session.config):
        session.console.say(line)


@dataclass
class NetToCome:
    """A model that a run will build: the key it comes from, the data it sees, what is tapped in it, the methods that it takes part in."""

    model: ModelConfig
    key: str
    data: DatasetConfig
    taps: dict[str, None]
    methods: list[Mapping[str, Any]]


def nets_of(plan: Plan) -> list[NetToCome]:
    """Every model of a plan once, the teacher's first, with all that its steps will ask of it."""
    found: dict[str, NetToCome] = {}

    def note(source: Source, data: DatasetConfig, taps: tuple[str, ...] = (), method: Mapping[str, Any] | None = None) -> None:
        if isinstance(source, Several):
            of_members = taps_of(source.members, taps)
            for name, member in source.members.items():
                note(member, data, of_members[name], method)
        elif isinstance(source, MadeBy):
            step = plan.step(source.step)
            note(Given(step.peers()[source.peer], "") if source.peer else step.model, data, taps, method)
        elif source.key:
            net = found.setdefault(source.key, NetToCome(source.model, source.key, data, {}, []))
            net.taps.update(dict.fromkeys(taps))
            net.methods += [method] if method and method not in net.methods else []

    for row in plan.rows:
        if row.role == "teacher":
            note(row.model, plan.test)
    for step in plan.todo:
        if step.teacher is not None:
            note(step.teacher, step.data, step.taps("teacher"), step.method)
        note(step.model, step.data, step.taps("student"), step.method)
        for number, peer in enumerate(step.peers().values()):
            note(Given(peer, f"method.peers.{number}"), step.data, step.taps("student"), step.method)
    for row in plan.rows:
        note(row.model, plan.test)
    return list(found.values())


def check_attack(session: Session, plan: Plan) -> None:
    config = session.config
    if isinstance(config, (Distils, Finetunes)):
        session.bundle(plan.test).inputs.check_attack(config.attack)


def check_part(plan: Plan, step: Step, inputs: Contract) -> None:
    """Whether a student has the parts that fine-tuning is to train."""
    budget = step.budget
    if isinstance(budget, FinetuneStageConfig) and not partial.trains_all_alike(budget):
        assert not isinstance(step.model, Several), step.name
        config = plan.base(step.model)
        net = planned(config, source_of(config, step.role)[1], inputs, step.role)
        partial.check_trainable(net.module, inputs.seen_by(net).net_example, budget, net.name)


def check_own(session: Session, net: NetToCome, inputs: Contract) -> None:
    """What a net of the user's own answers, seen on two samples."""
    if is_own(net.model, net.key):
        samples = session.bundle(net.data).few(2).inputs
        check_answers(in_any_order(net.model, inputs, net.key), inputs, to(samples, torch.device("cpu")), net.key)


def check_net(node: Mapping[str, Any], net: NetToCome, inputs: Contract) -> None:
    """What a method asks of a net and of what it sees, if anything."""
    method = find_class(node, Method, "method")
    if method.kinds and inputs.kind not in method.kinds:
        raise ConfigError(
            f"method: {method.__name__} is about {' and '.join(method.kinds)}, and the data set has {inputs.noun}; take method=distill"
        )
    method.check_net(lambda: planned(net.model, source_of(net.model, net.key)[1], inputs, net.key), net.key, inputs)


def check_settings(config: Any) -> None:
    """All that can be found without data, before any of it is downloaded; raises the problems at once."""
    problems = Problems([])
    check_components(config, problems)
    check_weights(config, problems)
    problems.attempt(lambda: check_before_reading(config))
    problems.report()
    if not plan(config).rows:
        raise ConfigError(
            "neither method nor loss reads a teacher here, and no stage trains a student: nothing to do; give distill.epochs=N"
        )


def check_components(config: Any, problems: Problems) -> None:
    """Everything that is built from a `_target_`."""
    problems.attempt(lambda: build_loss(config.loss))
    problems.attempt(lambda: build_loss(labels_only(config.loss)))
    problems.attempt(lambda: unlabelled.check_without_labels(config))
    problems.attempt(lambda: make_optimizer(config.optimizer, [torch.nn.Parameter(torch.zeros(1))], 1.0))
    problems.attempt(lambda: build(config.schedule, Schedule, "schedule"))  # type: ignore[type-abstract]
    problems.attempt(lambda: check_selection(config))
    problems.attempt(lambda: objective.names_of(config.objective))
    problems.attempt(lambda: check_weighing(config))
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


def check_ranking(session: Session, step: Step) -> None:
    """Whether the epoch of a step that ships can be chosen as `trainer.select_by` says."""
    key, bundle = session.config.trainer.select_by, session.bundle(step.data)
    if key is None:
        return
    if key in choose.BY_TEACHER:
        if step.teacher is None:
            raise ConfigError(f"trainer.select_by={key} compares with a teacher, and {step.name} has none; take val_top1 or val_nll")
    elif not bundle.data.val.labelled:
        raise ConfigError(
            f"trainer.select_by={key} needs labels, and the validation {bundle.inputs.noun} have none; take val_agreement or val_kl"
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


def check_weights(config: Any, problems: Problems) -> None:
    """The files of weights that are named, and whether the teacher has any."""
    taught = isinstance(config, Distils)
    reads_teacher = problems.attempt(lambda: teacher_is_read(config)) is not False if taught else isinstance(config, Pretrains)
    for key, model in given_models(config).items():
        teaches = key.partition(".")[0] == "teacher"
        if reads_teacher or not teaches:
            problems.attempt(lambda model=model, key=key: check_model(model, key))
    for key, model in given_models(config).items():
        if reads_teacher and key.partition(".")[0] == "teacher":
            problems.attempt(lambda model=model, key=key: check_is_trained(config, key, model))
    if not problems.found:  # a checkpoint that cannot be read says nothing of its data either
        problems.attempt(lambda: check_named(config.dataset))


def given_models(config: Any) -> dict[str, ModelConfig]:
    """The models that a config describes, by their keys: the teacher or its members, the student."""
    teachers = members_of(config.teacher) if isinstance(config, (Pretrains, Distils)) else {}
    students = {"student": config.student} if isinstance(config, (Distils, Finetunes)) else {}
    return {**teachers, **students}


def check_model(model: ModelConfig, role: str) -> None:
    source_of(model, role)
    if model.source == "own":
        find_class({"_target_": model._target_}, nn.Module, role)
    elif model.name != "recorded":
        catalogue.resolve(model.name, model.source, role)
