"""Elastic weight consolidation: weights that mattered to earlier tasks are held where they were."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from distillctl import draws
from distillctl.build import fraction, not_negative
from distillctl.losses.inputs import precise
from distillctl.models.logits import logits_of
from distillctl.modes import evaluating
from distillctl.strategies.strategy import Strategy, one, total
from distillctl.strategies.task import Samples
from distillctl.types import Batch, Terms, mapped, rows

AT_ONCE = 2**26  # numbers in the gradients of several samples together


class Ewc(Strategy):
    """Online EWC (Kirkpatrick et al. 2017; Schwarz et al. 2018): Σ min(strength · F, limit) (θ - θ*)², with F ← decay · F + that of the task at its end.

    F is the mean of squared gradients of log p(y | x), sample by sample, in eval mode. y is drawn from the model's own answer, which makes F the Fisher
    information (`labels=model`), or is the label (`labels=true`, which many codes take). samples: how many of a task are looked at; None: all.
    limit: what no weight is held by more than; at 1 / learning rate and beyond, a step of plain SGD overshoots, and the next one more. None: no limit.
    PyCIL has one too: 0.1, as F at 1e-4 times a strength of 1000.
    """

    name = "ewc"

    def __init__(
        self,
        *arguments: Any,
        strength: float = 10.0,
        decay: float = 1.0,
        labels: str = "model",
        samples: int | None = 1000,
        limit: float | None = 1.0,
        **more: Any,
    ):
        super().__init__(*arguments, **more)
        self.strength, self.decay = not_negative(strength=strength), fraction(decay=decay)
        if labels not in ("model", "true"):
            raise ValueError(f"labels={labels} must be one of model, true")
        if samples is not None and samples < 1:
            raise ValueError(f"samples={samples} must be >= 1")
        if limit is not None and not limit > 0:
            raise ValueError(f"limit={limit} must be > 0")
        self.labels, self.samples, self.limit = labels, samples, limit
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        for name, value in weights_of(self.student).items():
            if (before := self.past.get(f"fisher.{name}")) is not None:
                self.fisher[name] = enlarged(before, value)
                self.anchor[name] = enlarged(self.past[f"anchor.{name}"], value)

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        found = self.lesson(self.student(batch.inputs), batch)
        if not self.fisher or not self.strength:
            return found
        return total(found, one("held", self.penalty()))

    def penalty(self) -> Tensor:
        """Σ min(strength · F, limit) (θ - θ*)²."""
        own = weights_of(self.student)
        held = {
            name: (self.strength * fisher).clamp(max=math.inf if self.limit is None else self.limit) for name, fisher in self.fisher.items()
        }
        return torch.stack([(force * (own[name] - self.anchor[name]).square()).sum() for name, force in held.items()]).sum()

    def after_task(self, student: nn.Module, samples: Samples) -> None:
        split = samples.split
        if self.samples is not None and self.samples < len(split):
            split = split.take(draws.permutation(len(split), self.seed, "fisher", self.task.number)[: self.samples].tolist())
        found = fisher_information(student, samples.plain(split), self.labels, self.seed)
        self.fisher = {name: value + self.decay * self.fisher[name] if name in self.fisher else value for name, value in found.items()}
        self.anchor = {name: value.detach().clone() for name, value in weights_of(student).items()}

    def carried(self) -> dict[str, Tensor]:
        return {
            **super().carried(),
            **{f"fisher.{name}": value for name, value in self.fisher.items()},
            **{f"anchor.{name}": value for name, value in self.anchor.items()},
        }


def weights_of(student: nn.Module) -> dict[str, Tensor]:
    """The weights that learn, by name."""
    return {name: value for name, value in student.named_parameters() if value.requires_grad}


def enlarged(before: Tensor, now: Tensor) -> Tensor:
    """A tensor of an earlier head at the size of today's: what is new counts nothing."""
    before = before.to(now.device)
    if before.shape == now.shape:
        return before
    grown = torch.zeros_like(now)
    grown[: len(before)] = before
    return grown


def fisher_information(student: Any, batches: Any, labels: str, seed: int) -> dict[str, Tensor]:
    """Mean over samples of the squared gradient of log p(y | x), of each weight that learns."""
    weights = {name: value.detach() for name, value in weights_of(student).items()}
    net = student.net
    inside = ((f"net.{name}", value) for name, value in (*net.named_buffers(), *net.named_parameters()))
    fixed = {name: value.detach() for name, value in inside if name not in weights}
    size = max(1, AT_ONCE // max(1, sum(value.numel() for value in weights.values())))
    sums, count = {name: torch.zeros_like(value) for name, value in weights.items()}, 0

    def surprise(weights: dict[str, Tensor], sample: Any, target: Tensor) -> Tensor:
        answer = functional_call(
            net,
            {name.removeprefix("net."): value for name, value in {**weights, **fixed}.items()},
            (mapped(sample, lambda column: column[None]),),
        )
        return F.cross_entropy(precise(logits_of(answer, student.outputs)), target[None])

    with evaluating(student):
        for batch in batches:
            targets = batch.targets if labels == "true" else drawn(student, batch, seed)
            with torch.no_grad():  # and in one memory order: the other has no place where samples are told apart
                seen = mapped(student.prepare(batch.inputs), lambda column: column.contiguous())
            for piece in torch.arange(len(targets), device=targets.device).split(size):
                with warnings.catch_warnings():
                    warnings.filterwarnings(
                        "ignore", "There is a performance drop"
                    )  # of nets with an LSTM, which torch goes through one by one
                    gradients = vmap(grad(surprise), in_dims=(None, 0, 0))(weights, rows(seen, piece), targets[piece])
                for name, value in gradients.items():
                    sums[name] += value.square().sum(0)
            count += len(targets)
    return {name: value / max(count, 1) for name, value in sums.items()}


@torch.no_grad()
def drawn(student: nn.Module, batch: Batch, seed: int) -> Tensor:
    """int64 [B]: a class for each sample, drawn from the student's answer by its index."""
    shares = student(batch.inputs).logits.double().softmax(1).cumsum(1)
    luck = draws.uniform(seed, "fisher label", batch.index)[:, None]
    return (shares < luck).sum(1).clamp(max=shares.shape[1] - 1)
