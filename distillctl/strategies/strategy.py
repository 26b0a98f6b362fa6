"""What every strategy is: a method that learns one task of a sequence, with what it carries over from the task before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.strategies.memory import Memory
from distillctl.strategies.task import Past, Samples, Task
from distillctl.teachers.frozen import Frozen
from distillctl.types import Batch, Output, Terms


class Strategy(Method):
    """Fine-tuning on the task at hand, which forgets the others: the floor of every comparison. The others are built on it.

    `loss` says how one model learns from another. Its terms about labels alone are what a task is learnt by; those that read a teacher are asked of
    `teacher`, a larger model that knows the task, where there is one, and by strategies that distil of `old`, the student as the last task left it.

    task: of the sequence. old: None in the first task. memory: of strategies that replay. past: what `carried` gave at the end of the last task.
    """

    name: ClassVar[str] = "sgd"
    at_once: ClassVar[bool] = False  # all tasks together: no sequence, but what one is measured by
    distils: ClassVar[bool] = False  # reads `old`
    own_formula: ClassVar[bool] = False  # for what it reads of `old`, in the place of `loss`
    replays: ClassVar[bool] = False  # has a memory
    keeps_logits: ClassVar[bool] = False  # with the logits of that moment
    herds: ClassVar[bool] = False  # fills its memory at the end of a task, by herding
    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        student: nn.Module,
        loss: WeightedSum,
        teacher: Frozen | None = None,
        *,
        task: Task,
        old: Frozen | None = None,
        memory: Memory | None = None,
        past: Past | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.student, self.loss, self.teacher = student, loss, teacher
        self.task, self.old, self.memory, self.past, self.seed = task, old, memory, past or {}, seed
        if memory is not None and self.past:
            memory.take({name.removeprefix("memory."): value for name, value in self.past.items() if name.startswith("memory.")})

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        return self.lesson(self.student(batch.inputs), batch)

    def lesson(self, answer: Output, batch: Batch) -> Terms:
        """What labels say of samples, and the larger model where there is one."""
        guide = self.guide(batch)
        return self.loss(answer, guide, batch, only=None if guide is not None else self.about_labels)

    @property
    def about_labels(self) -> tuple[str, ...]:
        """The terms of the loss that read no teacher."""
        return tuple(name for name, term in self.loss.terms.items() if not term.needs_teacher)

    @property
    def about_answers(self) -> tuple[str, ...]:
        """The terms of the loss that read a teacher."""
        return tuple(name for name, term in self.loss.terms.items() if term.needs_teacher)

    def after_step(self) -> None:
        if self.memory is not None:
            self.memory.keep()

    def after_task(self, student: nn.Module, samples: Samples) -> None:
        """Once the task is learnt, on every rank: look at its samples again, change what is to be shipped. student: whose weights count."""

    def carried(self) -> dict[str, Tensor]:
        """What the next task begins with, besides the student's weights."""
        return {} if self.memory is None else {f"memory.{name}": value for name, value in self.memory.carried().items()}

    @classmethod
    def about_known_classes(cls, node: Mapping[str, Any]) -> str | None:
        """Why it cannot learn a task that has classes of earlier ones, and the way out; None where it can. `node` is its config."""
        return None


class Joint(Strategy):
    """All tasks at once, for as many epochs, and so about as many steps, as a sequence of them takes in all: the ceiling."""

    name = "joint"
    at_once = True


def total(*terms: Terms) -> Terms:
    """Their sum; parts of one name are added."""
    parts: dict[str, Tensor] = {}
    for term in terms:
        for name, value in term.parts.items():
            parts[name] = parts[name] + value if name in parts else value
    return Terms(torch.stack([term.loss for term in terms]).sum(), parts)


def weighed(terms: Terms, weight: float, prefix: str = "") -> Terms:
    return Terms(terms.loss * weight, {prefix + name: value * weight for name, value in terms.parts.items()})


def one(name: str, value: Tensor) -> Terms:
    """A term of one part."""
    return Terms(value, {name: value.detach()})


def first_classes(answer: Output, end: int, begin: int = 0) -> Output:
    """An answer about some classes alone: logits [B, end - begin]."""
    return answer._replace(logits=answer.logits[:, begin:end])
