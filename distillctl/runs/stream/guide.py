"""Who teaches a student of a stream: its own average, a copy of its past, or a larger model that learns what the stream brings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from distillctl.averages import follow, warmed_up
from distillctl.config import StreamConfig
from distillctl.models.adapter import Adapter
from distillctl.runs.sources import is_named
from distillctl.runtime import Runtime
from distillctl.types import Batch, Output


class Guide:
    """A teacher that answers in eval mode and gets no gradient. No nn.Module, so that the student's method does not take it for its own.

    knows: whether it has anything to say yet.
    """

    name = ""

    def __init__(self, model: Adapter, machine: Runtime, knows: bool):
        self.model, self.machine, self.knows = model.to(machine.device).eval(), machine, knows
        self.model.requires_grad_(False)

    def __call__(self, batch: Batch) -> Output:
        with torch.no_grad(), self.machine.autocast():
            return self.model(batch.inputs)

    def after_step(self, student: nn.Module) -> None:
        """Told after each step of the student."""

    def refresh(self, student: nn.Module) -> None:
        """Told when it is to become another one."""

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "knows": self.knows}

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.knows = bool(state["knows"])


class Average(Guide):
    """An exponential moving average of the student's weights (mean teacher, Tarvainen & Valpola 2017); statistics of batch norms are copied."""

    name = "ema"

    def __init__(self, student: Adapter, machine: Runtime, decay: float):
        super().__init__(copy.deepcopy(student), machine, knows=True)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        self.updates += 1
        follow(dict(self.model.named_parameters()), dict(student.named_parameters()), warmed_up(self.decay, self.updates))
        for mine, its in zip(self.model.buffers(), student.buffers(), strict=True):
            mine.copy_(its)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.updates = int(state["updates"])


class Snapshot(Guide):
    """The student as it was at the last refresh."""

    name = "student"

    def __init__(self, student: Adapter, machine: Runtime):
        super().__init__(copy.deepcopy(student), machine, knows=False)

    @torch.no_grad()
    def refresh(self, student: nn.Module) -> None:
        self.model.load_state_dict(student.state_dict())
        self.knows = True


class Larger(Guide):
    """`teacher`, which `learn` trains on what the stream brought, if that is enough; without weights of its own it says nothing before that."""

    name = "model"

    def __init__(self, model: Adapter, machine: Runtime, knows: bool, learn: Callable[[nn.Module, int], bool] | None):
        super().__init__(model, machine, knows)
        self.learn, self.refreshes = learn, 0

    def refresh(self, student: nn.Module) -> None:
        assert self.learn is not None
        self.model.requires_grad_(True).train()
        self.knows |= self.learn(self.model, self.refreshes)
        self.model.requires_grad_(False).eval()
        self.refreshes += 1

    def state(self) -> dict[str, Any]:
        return {**super().state(), "refreshes": self.refreshes}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.refreshes = int(state["refreshes"])


def teacher_kind(config: StreamConfig) -> str:
    """`stream.teacher`, or what its being null says."""
    return config.stream.teacher or ("model" if is_named(config.teacher) else "ema")
