"""Whether the batches of a step are of a size that its data have and its nets can learn from."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distillctl.build import find_class
from distillctl.config import PartStageConfig, RunConfig, check_parts, chosen
from distillctl.errors import ConfigError
from distillctl.inputs import kind_of
from distillctl.inputs.contract import Contract
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.models.obtain import planned, source_of
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.sources import Several
from distillctl.runs.steps import Plan, Step

HEAD_ALONE = ("head", "lora")  # parts to fine-tune whose batch norms keep their statistics


def check_batches(session: Session, bundle: Bundle) -> None:
    """Whether there is a whole batch."""
    size, count = chosen(session.config.trainer.batch_size), len(bundle.data.train)
    if size > count:
        raise ConfigError(f"trainer.batch_size={size} is more than the {count} training {bundle.inputs.noun}; lower it")
    if problems := check_parts("trainer", session.config.trainer):  # of a size that was chosen
        raise ConfigError(problems[0])


def check_before_reading(config: RunConfig) -> None:
    """Whether there can be a whole batch, as far as names and numbers of files tell: nothing is fetched, decoded or built."""
    size = config.trainer.batch_size
    if not isinstance(size, int):
        return
    inputs = kind_of(config.dataset)
    most = inputs.most(config.dataset, size)
    if most is not None and size > most:
        raise ConfigError(f"trainer.batch_size={size} is more than the {most:,} training {inputs.noun} that there can be; lower it")


def check_pieces(session: Session, plan: Plan, step: Step) -> None:
    """Whether batch norm, where something that the step trains has any, sees two samples or more at a time."""
    trainer, world = session.config.trainer, session.runtime.world
    size = chosen(trainer.batch_size)
    least = size // world // trainer.accumulate
    seen = least * (world if trainer.sync_batchnorm else 1)
    if size == 1 or seen > 1:
        return
    inputs = session.bundle_of(step).inputs
    if who := next(norms_of(plan, step, inputs), None):
        raise ConfigError(
            f"trainer.batch_size={size} leaves pieces of {seen} {inputs.noun.removesuffix('s')}, "
            f"and the batch norm of {who} needs 2: lower trainer.accumulate or devices"
        )


def norms_of(plan: Plan, step: Step, inputs: Contract) -> Iterator[str]:
    """What of a step learns statistics of its batches: nets, the method, terms of the loss."""
    for name, term in build_loss(step.loss).terms.items():
        if getattr(term, "norms_batches", False):
            yield f"loss.{name}"
    if step.method and find_class(step.method, Method, "method").norms_batches:
        yield f"method {find_class(step.method, Method, 'method').__name__}"
    if isinstance(step.budget, PartStageConfig) and step.budget.train in HEAD_ALONE:
        return
    assert not isinstance(step.model, Several), step.name
    students = {step.role: plan.base(step.model)}
    students |= {f"method.peers.{number}": peer for number, peer in enumerate(step.peers().values())}
    for key, config in students.items():
        net = planned(config, source_of(config, key)[1], inputs, key)
        if has_batch_norm(net.module):
            yield net.name


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())
