"""Whether the layers of a student and a teacher suit what a loss compares of them, before any training: depths, heads and widths."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from distillctl.losses.weighted import WeightedSum
from distillctl.models.layers import KINDS
from distillctl.models.stand_in import stand_in
from distillctl.models.taps import LOGITS
from distillctl.types import Output


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
