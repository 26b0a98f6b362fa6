"""Samples that stand for their classes: chosen by herding as a task ends, as many of each, and learnt again in the tasks to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.losses.inputs import precise
from distillctl.models.fitting import head_names
from distillctl.modes import evaluating
from distillctl.strategies.memory import Memory
from distillctl.strategies.strategy import Strategy
from distillctl.strategies.task import Samples
from distillctl.types import Inputs, Output, concatenated, count, device_of, rows

POOLED = "pooled"  # what the classifier sees


class KeepsExemplars(Strategy):
    """A strategy whose memory is filled as a task ends, by the features that the classifier sees."""

    replays = herds = True
    memory: Memory

    @classmethod
    def reads(cls, node: Mapping[str, Any], role: str) -> tuple[str, ...]:
        return (POOLED,) if role == "student" else ()

    def after_step(self) -> None:
        self.memory.steps += 1

    @torch.no_grad()
    def after_task(self, student: nn.Module, samples: Samples) -> None:
        with evaluating(student):
            self.memory.fill(*self.chosen(student, samples))

    def chosen(self, student: nn.Module, samples: Samples) -> tuple[Inputs, Tensor, Tensor]:
        """The exemplars of all classes so far, as many of each: the first of those that are there, and of the new classes those that herding takes."""
        each = self.memory.size // self.task.seen
        parts: list[tuple[Inputs, Tensor, Tensor]] = []
        inputs, targets, index = self.memory.held()
        for label in range(self.task.old):
            at = (targets == label).nonzero().flatten()[:each]
            parts.append((rows(inputs, at), targets[at], index[at]))
        seen = [(answer_features(student(batch.inputs)), batch.targets) for batch in samples.plain(samples.split)]
        features, labels = (torch.cat([item[place] for item in seen]) for place in (0, 1))
        for label in range(self.task.old, self.task.seen):
            at = (labels == label).nonzero().flatten()
            taken = at[herding(features[at], each)].cpu()
            [*batches] = samples.plain(samples.split.take(taken.tolist()))
            parts += [(batch.inputs, batch.targets, batch.index) for batch in batches]
        return concatenated([part[0] for part in parts]), torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])

    def features(self, student: nn.Module, inputs: Inputs) -> Tensor:
        """[N, D], in pieces."""
        where = torch.arange(count(inputs), device=device_of(inputs))
        return torch.cat([answer_features(student(rows(inputs, piece))) for piece in where.split(256)])


def herding(features: Tensor, count: int) -> Tensor:
    """int64 [min(count, N)]: rows of [N, D] in the order in which the mean of the normalised ones comes closest to that of all.

    Algorithm 4 of Rebuffi et al. 2017.
    """
    unit = F.normalize(features.double(), dim=1)
    mean, sum_so_far = unit.mean(0), torch.zeros_like(unit[0])
    free = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
    taken = []
    for number in range(1, min(count, len(unit)) + 1):
        distance = (mean - (sum_so_far + unit) / number).square().sum(1).masked_fill(~free, torch.inf)
        best = int(distance.argmin())
        taken.append(best)
        free[best] = False
        sum_so_far = sum_so_far + unit[best]
    return torch.tensor(taken, dtype=torch.int64, device=features.device)


def answer_features(answer: Output) -> Tensor:
    return precise(answer.features[POOLED])


def head_of(net: nn.Module) -> Any:
    """The classifier of a net; None where it ends in no module that is one."""
    names: Sequence[str] = head_names(net)
    return net.get_submodule(names[0].rpartition(".")[0]) if names else None
