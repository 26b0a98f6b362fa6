"""What every method is: the student, the teacher and the loss of a stage, and what a step computes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from distillctl.inputs.contract import Contract
from distillctl.losses.weighted import WeightedSum
from distillctl.models.net import Net
from distillctl.models.obtain import Obtained
from distillctl.types import Batch, Output, Terms


class Method(nn.Module):
    """Owns student, teacher and loss; `players` names who is optimized, each with an optimizer of its own.

    All that a step changes is in parameters and buffers, which a checkpoint holds. The teacher is no nn.Module, so none of it is. A stage
    gives the constructor (student, loss, teacher), the keys of `method.*`, and what else it names of: attack, inputs, peers, seed.
    """

    players: tuple[str, ...] = ("student",)
    needs_teacher: bool | None = None  # None: where the loss reads one; False: the method is its own teacher
    asks_of_views: bool = True  # False: it asks the teacher about other images than its batch's, or looks inside it
    kinds: tuple[str, ...] = ()  # of inputs that it is about; empty: of any
    trains_head = False  # by itself, whatever the loss reads
    norms_batches = False  # by batch norms that it brings along: they need two samples at a time
    student: nn.Module
    loss: WeightedSum
    teacher: Any  # (batch) -> Output, or None

    @classmethod
    def reads(cls, node: Mapping[str, Any], role: str) -> tuple[str, ...]:
        """Taps of the student or the teacher that the method itself reads, besides those of the loss; `node` is its config."""
        return ()

    @classmethod
    def check_loss(cls, loss: WeightedSum) -> None:
        """Raise ConfigError, before any training, where the loss does not suit."""

    @classmethod
    def check_net(cls, plan: Callable[[], Net], key: str, inputs: Contract) -> None:
        """Raise ConfigError, before any training, where a net does not suit; `plan()` is its architecture, `key` what names it, `inputs` what it sees."""

    @classmethod
    def adapt(cls, node: Mapping[str, Any], student: Obtained, teacher: Any, inputs: Contract, seed: int) -> Obtained:
        """Change the student's net before it trains; what ships is what this gives back, so its edits must be recorded."""
        return student

    def prepare(self, student: Output, teacher: Output | None) -> None:
        """Size its own parameters by the answers to a small batch, before there is an optimizer."""

    def forward(self, batch: Batch, player: str) -> Terms:
        raise NotImplementedError

    def guide(self, batch: Batch) -> Output | None:
        """The teacher's answer, where there is a teacher and the loss reads it."""
        return self.teacher(batch) if self.teacher is not None and self.loss.needs_teacher else None

    def at(self, epoch: float, epochs: float) -> None:
        """Told before each step how far the stage is, for what changes over it: here its loss."""
        for part in self.children():
            if isinstance(part, WeightedSum):
                part.at(epoch, epochs)

    def after_step(self) -> None:
        """Told after each step, when all players have moved."""

    def students(self) -> dict[str, nn.Module]:
        """What is measured each epoch and shipped at the end; "student" is the one that stages after this one go on with."""
        return {"student": self.student}

    def averaged(self) -> nn.Module:
        """What an exponential moving average of weights is taken of."""
        students = self.students()
        return self.student if len(students) == 1 else nn.ModuleDict(students)

    def trainable(self, player: str) -> list[nn.Parameter]:
        """What that player's optimizer owns: here the student's and the loss's own parameters."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]
