"""What would fail later, found with the data before the first step: every net that will be built, and what its methods ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from distillctl.build import find_class
from distillctl.config import DatasetConfig, Distils, Finetunes, LifelongConfig, ModelConfig, PartStageConfig
from distillctl.data import balance
from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.methods.method import Method
from distillctl.models import partial
from distillctl.models.committee import in_any_order, taps_of
from distillctl.models.obtain import check_answers, check_obtainable, is_own, planned, source_of
from distillctl.runs import answering, choose, deployable, objective, unlabelled
from distillctl.runs.batches import check_batches, check_pieces
from distillctl.runs.check import Problems
from distillctl.runs.layer_pairs import check_pair
from distillctl.runs.lifelong.check import check_with_data
from distillctl.runs.search import check_reachable
from distillctl.runs.session import Session
from distillctl.runs.sources import Given, MadeBy, Several, Source
from distillctl.runs.steps import Plan, Step
from distillctl.types import to


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
    if parts := [session.bundle_of(step) for step in plan.todo if step.tasks]:
        smallest = min(parts, key=lambda part: len(part.data.train))
        problems.attempt(lambda: check_batches(session, smallest))
    for step in plan.todo:
        problems.attempt(lambda step=step: check_ranking(session, step))
        problems.attempt(lambda step=step: answering.check_with_data(session.bundle_of(step), step, session.config))
        problems.attempt(lambda step=step: check_pair(plan, step, session.bundle_of(step).inputs))
        problems.attempt(lambda step=step: check_part(plan, step, session.bundle_of(step).inputs))
        problems.attempt(lambda step=step: check_pieces(session, plan, step))
    for file in deployable.written(plan):
        problems.attempt(lambda file=file: session.bundle(file.data).inputs.check_export())
    for cut in deployable.cuts(plan):
        problems.attempt(lambda cut=cut: deployable.check_cut(plan, cut, session.bundle(cut.data)))
    if isinstance(session.config, LifelongConfig):
        problems.attempt(lambda: check_with_data(session, session.bundle(plan.test)))
    problems.attempt(lambda: check_attack(session, plan))
    problems.attempt(lambda: check_reachable(session, plan))
    tested = session.bundle(plan.test)
    told = session.config.objective
    problems.attempt(lambda: objective.check_measurable(told, plan, tested.data.val.labelled, len(tested.data.classes), tested.inputs.noun))
    problems.report()
    for line in filter(None, left_out):
        session.console.say(line)
    if not plan.todo:
        return
    for data in plan.data:
        bundle = session.bundle(data)
        if line := balance.remark(bundle.data.train, bundle.data.classes, bundle.inputs.noun, data.balance):
            session.console.warn(line) if data.balance == "none" else session.console.say(line)
    if line := unlabelled.remark(session.config):
        session.console.say(line)
    for line in answering.remarks(session.bundle(plan.test), plan):
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
        if answering.is_answers(source):
            return  # nothing is built
        if isinstance(source, Several):
            of_members = taps_of(source.members, taps)
            for name, member in source.members.items():
                note(member, data, of_members[name], method)
        elif isinstance(source, MadeBy):
            made = plan.step(source.step)
            note(Given(plan.base(source), "") if source.peer else made.model, data, taps, method)
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
    if isinstance(budget, PartStageConfig) and not partial.trains_all_alike(budget):
        assert not isinstance(step.model, Several), step.name
        config = plan.base(step.model)
        net = planned(config, source_of(config, step.role)[1], inputs, step.role)
        partial.check_trainable(net.module, inputs.seen_by(net).net_example, budget, net.name)
        if budget.train == "prompt":
            inputs.with_prompt(net, budget.prompt.tokens, step.seed, f"{partial.key_of(budget)}.train=prompt")


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


def check_ranking(session: Session, step: Step) -> None:
    """Whether the epoch of a step that ships can be chosen as `trainer.select_by` says."""
    key, bundle = session.config.trainer.select_by, session.bundle_of(step)
    if key is None:
        return
    if key in choose.BY_TEACHER:
        if step.teacher is None:
            raise ConfigError(f"trainer.select_by={key} compares with a teacher, and {step.name} has none; take val_top1 or val_nll")
    elif not bundle.data.val.labelled:
        raise ConfigError(
            f"trainer.select_by={key} needs labels, and the validation {bundle.inputs.noun} have none; take val_agreement or val_kl"
        )
