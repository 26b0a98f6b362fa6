"""Whether a student and a teacher suit what a loss compares of them, before any training: the tokens they read; depths, heads and widths of their layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.models.layers import KINDS
from distillctl.models.obtain import planned, source_of
from distillctl.models.stand_in import stand_in
from distillctl.models.taps import LOGITS
from distillctl.runs.sources import Several
from distillctl.runs.steps import Plan, Step
from distillctl.types import Output

TRANSFORMERS = "transformers"


def check_pair(plan: Plan, step: Step, inputs: Contract) -> None:
    """Of the student and the teacher of a step, where its loss is about tokens or layers. Raises ConfigError."""
    if step.teacher is None or isinstance(step.teacher, Several) or isinstance(step.model, Several):
        return
    loss = build_loss(step.loss)
    by_token = [name for name, term in loss.terms.items() if getattr(term, "reads_tokens", False)]
    if not by_token and not any(map(on_layers, loss.terms.values())):
        return
    configs = {step.role: plan.base(step.model), "teacher": plan.base(step.teacher)}
    student, teacher = (planned(config, source_of(config, role)[1], inputs, role) for role, config in configs.items())
    if {student.source, teacher.source} - {TRANSFORMERS}:  # what is tapped in them is told already
        return
    if by_token and getattr(student.reader, "mark", None) != getattr(teacher.reader, "mark", None):
        raise ConfigError(
            f"loss.{by_token[0]} compares token by token, and {step.role} and teacher read other tokens (their tokenizer, template or max_tokens differ); "
            f"give both one {step.role}.tokenizer and template, or take a loss on answers: loss=kd"
        )
    check_layers(loss, student.module, teacher.module)


def check_layers(loss: WeightedSum, student: nn.Module, teacher: nn.Module) -> None:
    """Size a copy of each term on layers by stand-ins. Nets as they are built, on the meta device too. Raises ConfigError in the term's own line."""
    for term in loss.terms.values():
        if not on_layers(term):
            continue
        ready: Any = copy.deepcopy(term)
        answers = [
            Output(torch.zeros(1, 2), stand_in(net, taps)) for net, taps in ((student, ready.student_taps), (teacher, ready.teacher_taps))
        ]
        ready.prepare(*answers, samples=1)


def on_layers(term: nn.Module) -> bool:
    """Whether all that a term reads besides logits is of a transformer's layers."""
    taps = [*getattr(term, "student_taps", ()), *getattr(term, "teacher_taps", ())]
    kinds = {tap.partition(".")[0] for tap in taps} - {LOGITS}
    return bool(kinds) and kinds <= set(KINDS) and hasattr(term, "prepare")
