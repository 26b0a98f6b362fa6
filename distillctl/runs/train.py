"""One training stage, from a built model to a shipped one: what `fit` leaves to its caller."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl import outputs, state
from distillctl.build import build, find_class
from distillctl.draws import seed_of
from distillctl.errors import CheckpointError, Interrupted
from distillctl.loop import Ema, Plan, Report, Training, fit
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.methods.method import Method
from distillctl.metrics.answers import answers
from distillctl.metrics.quality import agreement, kl_to_teacher, negative_log_likelihood, top_k_accuracy
from distillctl.models import partial
from distillctl.models.obtain import Obtained, obtain
from distillctl.optimizers import make_optimizer
from distillctl.runs import keeping
from distillctl.runs.plan import Task, training_attack
from distillctl.runs.session import Session, command_of, first_on_main
from distillctl.runs.ship import ship_stage
from distillctl.runtime import precision_name
from distillctl.schedules import Schedule
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.types import Batch, Output

PREPARING = 8  # images that losses size their parameters by
TERM_TOO_SMALL = 0.01  # of the total: such a term teaches nothing, and most often its weight is a mistake


def train(session: Session, task: Task) -> Path:
    """Run a stage, or what is left of it, and return the shipped weights. A finished stage is not touched."""
    folder = session.stage_folder(task.name)
    file = folder / f"{task.role}.safetensors"
    if session.stage_record(task.name) is not None:
        if not file.is_file():
            raise CheckpointError(f"{file}: the run's record says that this stage is done, but the file is gone; start a new run")
        session.console.say(f"{task.name}: done before, {file}")
        return file
    if session.runtime.highest(int(session.stop())):
        raise interrupted(session)
    Stage(session, task, folder).run()
    session.runtime.barrier()
    return file


class Stage:
    """The state of a stage that is running. Everything that must survive a kill is in `training`."""

    def __init__(self, session: Session, task: Task, folder: Path):
        config, machine = session.config, session.runtime
        self.seed = task.seed(config.seed)
        self.batches = session.train_batches(self.seed)
        task = keeping.with_cache(session, task, self.batches)
        self.session, self.task, self.folder = session, task, folder
        taps = task.taps("student")
        self.pupils: dict[str, Obtained] = {"student": obtain(task.model, session.images, task.role, self.seed, taps=taps)}
        for number, (name, model) in enumerate(task.peers().items()):
            self.pupils[name] = obtain(model, session.images, f"method.peers.{number}", self.seed, taps=taps)
        if task.method:
            adapt = find_class(task.method, Method, "method").adapt
            self.pupils["student"] = adapt(task.method, self.pupils["student"], task.teacher, session.images, self.seed)
        own = self.pupils["student"]
        self.part = partial.select(own.classifier, own.net.input_size, task.budget, self.seed, own.net.name)
        self.training = self.make_training()
        self.shadow = copy.deepcopy(self.training.method.averaged()) if self.training.ema else None
        self.schedule = build(config.schedule, Schedule, "schedule")  # type: ignore[type-abstract]
        self.log = outputs.MetricsLog(folder / "metrics.jsonl")
        self.val = session.plain_batches(session.data.val)
        self.teacher_val: Tensor | None = None
        self.epoch_started = time.monotonic()
        self.machine = machine

    def make_training(self) -> Training:
        session, task = self.session, self.task
        config, machine = session.config, session.runtime
        images = session.few_images(PREPARING)
        guide = task.teacher(images) if task.teacher is not None else None
        student, loss = self.ready("student", images, guide)
        node = {key: value for key, value in (task.method or {}).items() if key != "peers"}
        if node:
            offers: dict[str, Callable[[], Any]] = {
                "attack": lambda: training_attack(config, self.seed),
                "peers": lambda: [self.ready(name, images, guide) for name in task.peers()],
                "images": lambda: session.images,
                "seed": lambda: self.seed,
            }
            asked = inspect.signature(find_class(node, Method, "method")).parameters
            given = {name: offer() for name, offer in offers.items() if name in asked and name not in node}
            method: Method = build(node, Method, "method", student, loss, task.teacher, **given)
        else:
            method = Distill(student, loss, task.teacher)
        with torch.no_grad():
            torch.manual_seed(seed_of(config.seed, "initialisation", "method"))
            method.prepare(student.eval()(images.inputs), guide)
        method = machine.share_statistics(method).train()  # type: ignore[assignment]
        if config.trainer.compile:
            for net in method.students().values():
                net.compile()
            if task.teacher is not None and method.asks_of_views:  # else it hooks on to its layers, which compiled code does not look for
                task.teacher.compile()
        lr_scale, factors = task.budget.lr_scale, self.part.lr_factors
        optimizers = {player: make_optimizer(config.optimizer, method.trainable(player), lr_scale, factors) for player in method.players}
        decay = config.trainer.ema_decay
        return Training(method, optimizers, machine.scaler(), Ema(method.averaged(), decay) if decay else None)

    def ready(self, name: str, images: Batch, guide: Output | None) -> tuple[nn.Module, WeightedSum]:
        """A student on its device, and its loss, whose own parameters are the same on every rank."""
        session, device = self.session, self.session.runtime.device
        student: nn.Module = self.pupils[name].classifier.to(device)
        if session.config.trainer.channels_last:
            student = student.to(memory_format=torch.channels_last)
        loss = self.task.loss if name == "student" else copy.deepcopy(self.task.loss)
        with torch.no_grad():
            answer = student.eval()(images.inputs)
        torch.manual_seed(seed_of(session.config.seed, "initialisation", "loss"))
        loss.to(device).prepare(answer, answer if guide is None else guide, samples=int(session.data.train.index.max()) + 1)
        return student, loss.to(device)

    def run(self) -> None:
        session, task, training = self.session, self.task, self.training
        trainer = session.config.trainer
        self.resume()
        plan = Plan(
            epochs=task.budget.epochs,
            batches_per_epoch=self.batches.batches_per_epoch,
            batch_size=trainer.batch_size,
            seed=self.seed,
            schedule=self.schedule,
            accumulate=trainer.accumulate,
            clip_norm=trainer.clip_norm,
            log_every=trainer.log_every,
            save_every_s=trainer.save_every_s,
        )
        if task.teacher is not None:
            self.measure_teacher(task.teacher)
        self.say_how_chosen()
        before = fingerprint(task.teacher.model) if task.teacher is not None else None
        if self.part.summary:
            session.console.say(self.part.summary)
        session.console.start_stage(task.name, self.describe(), plan.epochs, plan.batches_per_epoch, training.step)
        if not self.finished():
            fit(
                training,
                self.batches,
                plan,
                self.machine,
                after_step=self.after_step,
                after_epoch=self.after_epoch,
                save=self.save,
                asked_to_stop=session.stop,
            )
        session.console.end_stage()
        if line := keeping.summary(task):
            session.console.say(line)
        if not self.finished():
            raise interrupted(session)
        if task.teacher is not None:
            assert fingerprint(task.teacher.model) == before, "the teacher was changed by training"
        if session.run is not None:
            ship_stage(session, task, training, self.pupils)

    def describe(self) -> str:
        task = self.task
        nets = [pupil.net for pupil in self.pupils.values()]
        named = " and ".join(net.name + (f" ({net.stem} stem)" if net.source != "cifar" else "") for net in nets)
        guided = " by its teacher" if task.teacher is not None else ""
        size = len(self.session.data.train)
        return f"{named}{guided}, {size:,} images, {precision_name(self.machine.precision)} on {self.machine.name}"

    def resume(self) -> None:
        """Take up the newest valid checkpoint of this stage, on all ranks alike."""
        machine, console = self.machine, self.session.console
        found = machine.from_main(first_on_main(machine, lambda: state.newest(self.folder, console.warn)))
        if found is not None:
            content, description = found
            now = self.description()
            for name in ("world", "threads", "device", "precision", "torch"):
                if description.get(name) != now[name]:
                    console.warn(f"{name} was {description.get(name)} and is {now[name]}: going on, but not bit for bit")
            try:
                self.training.load(content)
            except (KeyError, RuntimeError, ValueError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise CheckpointError(f"{self.folder}: its checkpoint does not fit this model, optimizer or version: {reason}") from None
        if self.session.run is not None:  # the other ranks share the file
            self.log.cut(self.training.log_size)

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of itself, for people and for the checks at resume."""
        return {
            "stage": self.task.name,
            "epoch": self.training.epoch,
            "step": self.training.step,
            "data": self.session.data.fingerprint,
            "world": self.machine.world,
            "threads": torch.get_num_threads() if self.machine.device.type == "cpu" else None,
            "device": self.machine.device.type,
            "precision": precision_name(self.machine.precision),
            "torch": torch.__version__,
            "versions": outputs.versions(),
        }

    def save(self, training: Training) -> None:
        if self.session.run is not None:
            training.log_size = self.log.size()
            state.save(self.folder, training.state(), self.description())

    def measure_teacher(self, teacher: Frozen) -> None:
        """The teacher's answers to the validation images through the student's own pipeline, before step 1."""
        timed = keeping.Timed(self.session.plain_batches(self.session.data.val, teacher.micro_batch), self.machine.device)
        self.teacher_val, targets = answers(teacher.model, timed, self.machine)
        if not self.training.step and (line := keeping.time_saved(self.task, self.batches, timed.seconds_per_image)):
            self.session.console.say(line)
        if not self.session.data.val.labelled:
            return
        accuracy, chance = top_k_accuracy(self.teacher_val, targets, 1), 1 / len(self.session.images.classes)
        self.session.console.say(f"teacher: top-1 {accuracy:.2%} on {len(targets)} validation images")
        if accuracy < 2 * chance:
            self.session.console.warn(
                f"the teacher is near chance ({chance:.2%}): are its classes and its preprocessing those of this data set?"
            )

    def after_step(self, report: Report) -> None:
        self.session.console.step(report)
        if self.session.run is not None:
            values = {
                "loss": sum(self.of_student(report.parts).values()),
                **report.parts,
                "lr": report.lr,
                "images_per_s": report.images_per_s,
            }
            self.log.write({"kind": "step", "epoch": report.epoch + 1, "step": report.step, **values})
            self.session.tracker.log(self.task.name, report.step, values)
        if report.step == 1 and len(report.parts) > 1:
            self.sizes_of_terms(self.of_student(report.parts))

    def of_student(self, parts: Mapping[str, float]) -> dict[str, float]:
        """The parts of the loss without those that other players minimise, which begin with their names."""
        others = [player for player in self.training.method.players if player != "student"]
        return {name: value for name, value in parts.items() if name.partition(".")[0] not in others}

    def sizes_of_terms(self, parts: Mapping[str, float]) -> None:
        total = sum(parts.values()) or 1.0
        shown = ", ".join(f"{name} {value:.4f} ({value / total:.0%})" for name, value in parts.items())
        self.session.console.say(f"  loss terms at step 1: {shown}")
        for term in self.session.config.loss:
            found = [value for name, value in parts.items() if name.rpartition(".")[2] == term]
            if found and max(found) < TERM_TOO_SMALL * total:
                self.session.console.warn(
                    f"loss.{term} is under {TERM_TOO_SMALL:.0%} of the total at step 1; is loss.{term}.weight meant so?"
                )

    def after_epoch(self, training: Training, parts: Mapping[str, float]) -> bool:
        """Measure on the validation split, remember the best, log; False ends the stage early."""
        values: dict[str, Any] = {}
        for name in self.pupils:
            student = self.evaluated(name)
            logits, targets = answers(student, self.val, self.machine)
            measured = self.measured(logits, targets)
            if self.is_best(measured, training.best.get(name)):
                weights = {key: value.detach().cpu().clone() for key, value in student.plain_state().items()}  # type: ignore[operator]
                training.best[name] = {"epoch": training.epoch, "metrics": measured, "weights": weights}
            values |= measured if name == "student" else {f"{name}.{key}": value for key, value in measured.items()}
        training.history.append({"epoch": training.epoch, "step": training.step, **parts, **values})
        best = training.best["student"]["epoch"] == training.epoch
        seconds, self.epoch_started = time.monotonic() - self.epoch_started, time.monotonic()
        rate = self.batches.batches_per_epoch * self.session.config.trainer.batch_size / seconds
        shown = [f"{word} {values[key]:>7.2%}" for word, key in (("val", "val_top1"), ("agree", "val_agreement")) if key in values][:1]
        self.session.console.epoch(training.epoch, dict(parts), "".join(shown), rate, best)
        if self.session.run is not None:
            self.log.write({"kind": "epoch", "epoch": training.epoch, "step": training.step, **values, "best": best, "seconds": seconds})
            self.session.tracker.log(self.task.name, training.step, values)
        return not self.finished()

    def measured(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """What the validation images say of a student: by their labels, where they have any, and by the teacher."""
        found: dict[str, float] = {}
        labelled = self.session.data.val.labelled
        if labelled:
            found = {"val_top1": top_k_accuracy(logits, targets, 1), "val_nll": negative_log_likelihood(logits, targets)}
        if self.teacher_val is not None:
            found["val_agreement"] = agreement(logits, self.teacher_val)
            if not labelled:
                found["val_kl"] = kl_to_teacher(logits, self.teacher_val)
        return found

    def evaluated(self, name: str) -> nn.Module:
        """The weights that count: the average where there is one."""
        if self.shadow is None or self.training.ema is None:
            return self.training.method.students()[name]
        self.shadow.load_state_dict(self.training.ema.weights)
        return self.shadow[name] if isinstance(self.shadow, nn.ModuleDict) else self.shadow

    def is_best(self, values: Mapping[str, float], best: Mapping[str, Any] | None) -> bool:
        """By accuracy, then by NLL, and without labels as `ranking` says; NaN is never best. With select=last every epoch is."""
        if best is None or self.ranking is None:
            return True
        high, low = self.ranking
        before = best["metrics"]
        return (values[high], -values[low]) > (before[high], -before[low])

    @property
    def ranking(self) -> tuple[str, str] | None:
        """What the best epoch is chosen by, the larger the better, and what decides between equals, the smaller the better; None: the last."""
        if self.session.config.trainer.select == "last":
            return None
        if self.session.data.val.labelled:
            return "val_top1", "val_nll"
        return ("val_agreement", "val_kl") if self.task.teacher is not None else None

    def say_how_chosen(self) -> None:
        """Which epoch ships, where the validation images have no labels to choose it by."""
        if self.session.config.trainer.select == "last" or self.session.data.val.labelled:
            return
        how = "the last epoch ships" if self.ranking is None else "the best epoch is chosen by agreement with the teacher"
        self.session.console.say(f"{self.task.name}: {how}, as the {len(self.session.data.val):,} validation images have no labels")

    def finished(self) -> bool:
        training, patience = self.training, self.session.config.trainer.early_stopping_epochs
        best = training.best.get("student")
        stale = best is not None and patience is not None and training.epoch - best["epoch"] >= patience
        return training.epoch >= self.task.budget.epochs or (stale and training.batch == 0)


def interrupted(session: Session) -> Interrupted:
    """Everything is saved; say how to go on."""
    return Interrupted(
        f"interrupted; go on with: distillctl {command_of(session.config)} resume={session.folder}", session.stop.signal_number or 15
    )
