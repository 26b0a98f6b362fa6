"""A student of a stream and all that a step changes of it: one optimizer step a batch, as `loop` takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.config import StreamConfig
from distillctl.draws import seed_of
from distillctl.loop import FitSettings, backward, descend
from distillctl.losses.weighted import build_loss
from distillctl.methods.distill import Distill
from distillctl.methods.method import Method
from distillctl.models.adapter import Adapter
from distillctl.models.obtain import Obtained, obtain
from distillctl.modes import evaluating
from distillctl.optimizers import make_optimizer
from distillctl.runs.bundle import Bundle
from distillctl.runs.draft import labels_only
from distillctl.runs.session import Session
from distillctl.runs.stream.guide import teacher_kind
from distillctl.runtime import Runtime, diverged
from distillctl.schedules import Constant
from distillctl.strategies.memory import Memory
from distillctl.strategies.stream import FromStream
from distillctl.strategies.task import Task, Views
from distillctl.training import Training
from distillctl.types import Batch, Inputs, Output

STEP = FitSettings(epochs=1, batches_per_epoch=1, batch_size=1, seed=0, schedule=Constant())


class Learner:
    """A student with its memory, loss and optimizer. guide: who teaches it; None: labels alone do."""

    def __init__(self, session: Session, bundle: Bundle, like: Inputs, views: Views, guide: Callable[[Adapter], Any] | None):
        config: StreamConfig = session.config
        self.config, self.machine = config, session.runtime
        self.obtained: Obtained = obtain(config.student, bundle.inputs, "student", config.seed)
        student: Adapter = self.obtained.classifier.to(self.machine.device)
        if config.trainer.channels_last:
            student = student.to(memory_format=torch.channels_last)
        self.guide = guide(student) if guide is not None else None
        labels = build_loss(labels_only(config.loss))
        loss = build_loss(config.loss) if guide is not None else labels
        classes = len(bundle.inputs.classes)
        size = config.memory.batch_size or bundle.batch_size
        seed = seed_of(config.seed, "memory")
        self.memory = Memory(config.memory.size, size, like, classes, seed, views, config.memory.select or "reservoir")
        method = FromStream(
            student,
            loss,
            self.guide,
            alone=labels,
            of_new=asks_of_new(config),
            task=Task(1, 1, 0, classes, classes),
            memory=self.memory,
            seed=config.seed,
        )
        self.method: FromStream = method.to(self.machine.device).train()
        optimizers = {"student": make_optimizer(config.optimizer, method.trainable("student"), 1.0)}
        self.training = Training(method, optimizers, self.machine.scaler())

    @property
    def student(self) -> Adapter:
        found = self.method.student
        assert isinstance(found, Adapter)
        return found

    def answers(self, inputs: Inputs) -> Tensor:
        """Logits float32 [B, K] to samples as they are stored, in eval mode, before they are learnt."""
        return logits_of(self.student, inputs, self.machine)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step. Returns the loss parts. Raises Diverged before weights would be spoilt."""
        parts = step(self.training, batch, self.config, self.machine, self.config.seed)
        self.training.samples += len(batch.index)
        return parts

    def start_over(self, forget: bool) -> None:
        """After a drift: an optimizer that remembers nothing, and with `forget` an empty memory."""
        self.training.optimizers["student"] = make_optimizer(self.config.optimizer, self.method.trainable("student"), 1.0)
        if forget:
            self.memory.empty()

    def state(self) -> dict[str, Any]:
        return self.training.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.training.load(state)


def asks_of_new(config: StreamConfig) -> bool:
    """Whether the teacher is asked about new samples: a larger one is, and anybody where there are no labels."""
    usual = "memory" if teacher_kind(config) in ("ema", "student") and config.dataset.labels else "all"
    return (config.stream.taught or usual) == "all"


def step(training: Training, batch: Batch, config: StreamConfig, machine: Runtime, seed: int) -> dict[str, float]:
    """One optimizer step of one player on a batch of any size."""
    settings = replace(
        STEP, batch_size=len(batch.index), accumulate=min(config.trainer.accumulate, len(batch.index)), clip_norm=config.trainer.clip_norm
    )
    torch.manual_seed(seed_of(seed, "dropout", training.step, 0))
    parts = backward(training.method, "student", batch, training, settings, machine)
    values = dict(zip(parts, torch.stack([*parts.values()]).tolist(), strict=True)) if parts else {}
    for name, value in values.items():
        if not math.isfinite(value):
            raise diverged(name, value, 0, training.step)
    descend("student", training, 1.0, settings)
    training.method.after_step()
    training.step += 1
    return values


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Inputs, machine: Runtime) -> Tensor:
    with evaluating(model), machine.autocast():
        answer: Output = model(inputs)
    return answer.logits.float()


def taught_by_labels(model: Adapter, config: StreamConfig, machine: Runtime, lr_scale: float = 1.0) -> Training:
    """A training of a larger teacher, which begins anew at each refresh."""
    method: Method = Distill(model, build_loss(labels_only(config.loss)))
    optimizers = {"student": make_optimizer(config.optimizer, method.trainable("student"), lr_scale)}
    return Training(method.train(), optimizers, machine.scaler())
