"""From a step to a training: its models built, its teacher and loss made, its optimizers and batches ready."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillctl.build import arguments_of, build, find_class
from distillctl.compress.sparsity import keep_zeros
from distillctl.config import Distils, Finetunes, TeacherConfig, TrainerConfig
from distillctl.data.loader import TrainLoader
from distillctl.draws import seed_of
from distillctl.errors import ConfigError
from distillctl.feed import AHEAD, Feed
from distillctl.loop import FitSettings
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.methods.attack import Pgd
from distillctl.methods.distill import Distill
from distillctl.methods.method import Method
from distillctl.models import partial
from distillctl.models.obtain import Obtained, obtain
from distillctl.models.sharing import share
from distillctl.optimizers import make_optimizer
from distillctl.runs import keeping
from distillctl.runs.bundle import Bundle
from distillctl.runs.int8 import fake_quantise
from distillctl.runs.lengths import length
from distillctl.runs.lifelong.handover import going_on, offers_of
from distillctl.runs.session import Session
from distillctl.runs.sources import Given
from distillctl.runs.steps import Step
from distillctl.runs.teachers import make_teacher
from distillctl.schedules import Schedule
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.training import Ema, Training
from distillctl.types import Batch, Output

LABELS = {"_target_": "distillctl.methods.distill.Distill"}  # what a step without a method does
PREPARING = 8  # samples that losses size their parameters by


@dataclass(frozen=True)
class Assembly:
    """A step that can be trained. pupils: its students, "student" first; everything that a step changes is in `training`."""

    step: Step
    bundle: Bundle
    batches: TrainLoader
    teacher: Frozen | None
    pupils: dict[str, Obtained]
    part: partial.Part
    training: Training
    schedule: Schedule

    def feed(self) -> Feed:
        """The batches, with kept answers. A GPU is fed ahead; workers that read files are ahead by themselves."""
        recalling = self.teacher.recalling if isinstance(self.teacher, Cached) else None
        ahead = AHEAD if self.batches.place.device.type == "cuda" and self.batches.memory is not None else 0
        return Feed(self.batches, recalling, ahead)

    def settings(self, trainer: TrainerConfig, most_steps: int | None = None) -> FitSettings:
        """What `fit` is to do. most_steps: where it may not take all that its budget gives."""
        taken, batches = length(self.step, self.batches, trainer, most_steps), self.batches
        return FitSettings(
            epochs=taken.epochs,
            batches_per_epoch=batches.batches_per_epoch,
            batch_size=batches.batch_size,
            sizes=batches.sizes,
            steps=taken.steps if taken.steps < taken.epochs * batches.batches_per_epoch else None,
            seed=self.step.seed,
            schedule=self.schedule,
            accumulate=trainer.accumulate,
            clip_norm=trainer.clip_norm,
            log_every=trainer.log_every,
            save_every_s=trainer.save_every_s,
        )


def assemble(session: Session, step: Step) -> Assembly:
    """Of a step whose models are all given."""
    config = session.config
    bundle = session.bundle_of(step)
    batches = bundle.train_batches(step.seed)
    loss = build_loss(step.loss)
    if (weights := bundle.class_weights()) is not None:
        loss.weigh_classes(weights)
    teacher = teacher_of(session, bundle, step, loss)
    if teacher is not None:
        teacher = keeping.kept(session, bundle, step, teacher, batches)
    pupils = pupils_of(session, bundle, step, teacher)
    own = pupils["student"]
    part = partial.select(own.classifier, own.inputs.net_example, step.budget, step.seed, own.net.name)
    method = make_method(session, bundle, step, loss, teacher, pupils, batches)
    if teacher is not None and (count := share(own.classifier.net, teacher.model)):
        session.console.say(f"{step.name}: teacher and student hold {count:,} parameters once, as the same")
    session.remark(bundle)
    training = make_training(session, step, method, teacher, part)
    schedule = build(config.schedule, Schedule, "schedule")  # type: ignore[type-abstract]
    return Assembly(step, bundle, batches, teacher, pupils, part, training, schedule)


def teacher_of(session: Session, bundle: Bundle, step: Step, loss: WeightedSum) -> Frozen | None:
    """The teacher that answers the step's batches; made faster where the method only asks it."""
    if step.teacher is None:
        return None
    assert isinstance(step.teacher, Given), step.teacher
    teacher = make_teacher(session, bundle, step.teacher.model, step.taps("teacher"), loss)
    config: TeacherConfig = session.config.teacher
    teacher.micro_batch = config.micro_batch
    if config.fold_batchnorm and find_class(step.method or LABELS, Method, "method").asks_of_views:
        teacher.fold(bundle.few(4).inputs)
    return teacher


def pupils_of(session: Session, bundle: Bundle, step: Step, teacher: Frozen | None) -> dict[str, Obtained]:
    """The students, as the method wants them."""
    assert isinstance(step.model, Given), step.model
    taps = step.taps("student")
    if step.goes_on:
        pupils = {"student": going_on(session, bundle, step, taps)}
    else:
        pupils = {"student": obtain(step.model.model, bundle.inputs, step.role, step.seed, weights=not step.fresh, taps=taps)}
    for number, (name, model) in enumerate(step.peers().items()):
        pupils[name] = obtain(model, bundle.inputs, f"method.peers.{number}", step.seed, taps=taps)
    if step.method:
        adapt = find_class(step.method, Method, "method").adapt
        pupils["student"] = adapt(step.method, pupils["student"], teacher, bundle.inputs, step.seed)
    pupils["student"] = partial.prepared(pupils["student"], bundle.inputs, step.budget, step.seed)
    if step.for_int8:
        fake_quantise(pupils["student"].classifier, bundle)
    return pupils


def make_method(
    session: Session,
    bundle: Bundle,
    step: Step,
    loss: WeightedSum,
    teacher: Frozen | None,
    pupils: dict[str, Obtained],
    batches: TrainLoader,
) -> Method:
    """The method with its students on the device. What its constructor names of attack, inputs, peers and seed is given to it, and of what learning over time needs."""
    samples = bundle.few(PREPARING)
    guide = teacher(samples) if teacher is not None else None

    def ready(name: str, loss: WeightedSum) -> tuple[nn.Module, WeightedSum]:
        return put_on_device(session, bundle, pupils[name], samples, guide, loss)

    student, own_loss = ready("student", loss)
    node = {key: value for key, value in (step.method or {}).items() if key != "peers"}
    if node:
        offers: dict[str, Callable[[], Any]] = {
            "attack": lambda: training_attack(session.config, step.seed),
            "peers": lambda: [ready(name, copy.deepcopy(loss)) for name in step.peers()],
            "inputs": lambda: bundle.inputs,
            "seed": lambda: step.seed,
        }
        key = "method"
        if step.tasks:
            key, offers = "strategy", offers_of(session, bundle, step, batches, pupils["student"].classifier)
        asked = arguments_of(find_class(node, Method, key)).parameters
        given = {name: offer() for name, offer in offers.items() if name in asked and name not in node}
        method: Method = build(node, Method, key, student, own_loss, teacher, **given)
    else:
        method = Distill(student, own_loss, teacher)
    with torch.no_grad():
        torch.manual_seed(seed_of(session.config.seed, "initialisation", "method"))
        method.prepare(student.eval()(samples.inputs), guide)
    return method


def put_on_device(
    session: Session, bundle: Bundle, pupil: Obtained, samples: Batch, guide: Output | None, loss: WeightedSum
) -> tuple[nn.Module, WeightedSum]:
    """A student, and its loss, whose own parameters are the same on every rank."""
    device = session.runtime.device
    student: nn.Module = pupil.classifier.to(device)
    if session.config.trainer.channels_last:
        student = student.to(memory_format=torch.channels_last)
    with torch.no_grad():
        answer = student.eval()(samples.inputs)
    torch.manual_seed(seed_of(session.config.seed, "initialisation", "loss"))
    loss.to(device).prepare(answer, answer if guide is None else guide, samples=int(bundle.data.train.index.max()) + 1)
    return student, loss.to(device)


def make_training(session: Session, step: Step, method: Method, teacher: Frozen | None, part: partial.Part) -> Training:
    """Optimizers, scaler and average, around a method that is spread over the ranks."""
    config, machine = session.config, session.runtime
    method = machine.share_statistics(method).train()  # type: ignore[assignment]
    if config.trainer.compile:
        for net in method.students().values():
            net.compile()
        if teacher is not None and method.asks_of_views:  # else it hooks on to its layers, which compiled code does not look for
            teacher.compile()
    scale, factors = step.budget.lr_scale, part.lr_factors
    optimizers = {player: make_optimizer(config.optimizer, method.trainable(player), scale, factors) for player in method.players}
    if step.keeps_zeros:
        for optimizer in optimizers.values():
            keep_zeros(method.students()["student"], optimizer)
    decay = config.trainer.ema_decay
    return Training(method, optimizers, machine.scaler(), Ema(method.averaged(), decay) if decay else None)


def training_attack(config: Any, seed: int) -> Pgd:
    """The attack that a method trains against."""
    assert isinstance(config, (Distils, Finetunes))
    if config.attack.name == "none":
        raise ConfigError("attack=none: this method trains against an attack; choose attack=pgd")
    return Pgd.for_training(config.attack, seed)
