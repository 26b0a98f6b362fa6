"""One training stage, from a built model to a shipped one: what `fit` leaves to its caller."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl import outputs, state
from distillctl.build import build
from distillctl.config import ModelConfig, StageConfig
from distillctl.data.counters import seed_of
from distillctl.data.loader import Place, PlainLoader
from distillctl.errors import CheckpointError, Interrupted
from distillctl.loop import Ema, Plan, Report, Training, fit
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill, Method
from distillctl.metrics.answers import answers
from distillctl.metrics.quality import agreement, negative_log_likelihood, top_k_accuracy
from distillctl.models.obtain import obtain
from distillctl.models.shipping import load_script, ship
from distillctl.runtime import precision_name
from distillctl.scenarios.session import Session, command_of, first_on_main
from distillctl.schedules import Schedule
from distillctl.teachers.frozen import Frozen, fingerprint

PREPARING = 8  # images that losses size their parameters by
TERM_TOO_SMALL = 0.01  # of the total: such a term teaches nothing, and most often its weight is a mistake


@dataclass(frozen=True)
class Task:
    """What one stage trains, and by what."""

    name: str
    role: str  # "teacher" or "student": what the shipped files are called
    model: ModelConfig
    loss: WeightedSum
    budget: StageConfig
    teacher: Frozen | None = None
    method: Mapping[str, Any] | None = None


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
        self.session, self.task, self.folder = session, task, folder
        config, machine = session.config, session.runtime
        self.batches = session.train_batches()
        self.obtained = obtain(task.model, session.images, task.role, config.seed, taps=task.loss.taps("student"))
        self.training = self.make_training()
        self.shadow = copy.deepcopy(self.training.method.student) if self.training.ema else None
        self.schedule = build(config.schedule, Schedule, "schedule")  # type: ignore[type-abstract]
        self.log = outputs.MetricsLog(folder / "metrics.jsonl")
        self.val = session.plain_batches(session.data.val)
        self.teacher_val: Tensor | None = None
        self.epoch_started = time.monotonic()
        self.machine = machine

    def make_training(self) -> Training:
        session, task = self.session, self.task
        config, machine = session.config, session.runtime
        student: nn.Module = self.obtained.classifier.to(machine.device)
        if config.trainer.channels_last:
            student = student.to(memory_format=torch.channels_last)
        loss = self.prepare_loss(student)
        machine.share_statistics(loss)
        student = machine.share_statistics(student)
        if task.method:
            method: Method = build(task.method, Method, "method", student, loss, task.teacher)
        else:
            method = Distill(student, loss, task.teacher)
        method.train()
        if config.trainer.compile:
            method.student.compile()
        optimizers = {player: make_optimizer(config.optimizer, method.trainable(player), task.budget.lr_scale) for player in method.players}
        decay = config.trainer.ema_decay
        return Training(method, optimizers, machine.scaler(), Ema(method.student, decay) if decay else None)

    def prepare_loss(self, student: nn.Module) -> WeightedSum:
        """The loss, its own parameters sized by the answers to a few images; the same on every rank, whatever the seed of the order."""
        session, loss, device = self.session, self.task.loss.to(self.session.runtime.device), self.session.runtime.device
        images = session.data.train.take(range(min(PREPARING, len(session.data.train))))
        [batch] = PlainLoader(images, PREPARING, Place(device), replace(session.reading, workers=0))
        guide = self.task.teacher(batch) if self.task.teacher is not None else None
        with torch.no_grad():
            answer = student.eval()(batch.inputs)
        torch.manual_seed(seed_of(session.config.seed, "initialisation", "loss"))
        loss.prepare(answer, guide, samples=int(session.data.train.index.max()) + 1)
        return loss.to(device)

    def run(self) -> None:
        session, task, training = self.session, self.task, self.training
        config, trainer = session.config, session.config.trainer
        self.resume()
        plan = Plan(
            epochs=task.budget.epochs,
            batches_per_epoch=self.batches.batches_per_epoch,
            batch_size=trainer.batch_size,
            seed=config.seed,
            schedule=self.schedule,
            accumulate=trainer.accumulate,
            clip_norm=trainer.clip_norm,
            log_every=trainer.log_every,
            save_every_s=trainer.save_every_s,
        )
        if task.teacher is not None:
            self.measure_teacher(task.teacher)
        before = fingerprint(task.teacher.model) if task.teacher is not None else None
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
        if not self.finished():
            raise interrupted(session)
        if task.teacher is not None:
            assert fingerprint(task.teacher.model) == before, "the teacher was changed by training"
        self.ship()

    def describe(self) -> str:
        net, task = self.obtained.net, self.task
        guided = " by its teacher" if task.teacher is not None else ""
        small = f" ({net.stem} stem)" if net.source != "cifar" else ""
        size = len(self.session.data.train)
        return f"{net.name}{small}{guided}, {size:,} images, {precision_name(self.machine.precision)} on {device_name(self.machine)}"

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
        self.teacher_val, targets = answers(teacher.model, self.val, self.machine)
        accuracy, chance = top_k_accuracy(self.teacher_val, targets, 1), 1 / len(self.session.images.classes)
        self.session.console.say(f"teacher: top-1 {accuracy:.2%} on {len(targets)} validation images")
        if accuracy < 2 * chance:
            self.session.console.warn(
                f"the teacher is near chance ({chance:.2%}): are its classes and its preprocessing those of this data set?"
            )

    def after_step(self, report: Report) -> None:
        self.session.console.step(report)
        if self.session.run is not None:
            values = {"loss": sum(report.parts.values()), **report.parts, "lr": report.lr, "images_per_s": report.images_per_s}
            self.log.write({"kind": "step", "epoch": report.epoch + 1, "step": report.step, **values})
            self.session.tracker.log(self.task.name, report.step, values)
        if report.step == 1 and len(report.parts) > 1:
            self.sizes_of_terms(report.parts)

    def sizes_of_terms(self, parts: Mapping[str, float]) -> None:
        total = sum(parts.values()) or 1.0
        shown = ", ".join(f"{name} {value:.4f} ({value / total:.0%})" for name, value in parts.items())
        self.session.console.say(f"  loss terms at step 1: {shown}")
        for name, value in parts.items():
            if value < TERM_TOO_SMALL * total:
                self.session.console.warn(
                    f"loss.{name} is under {TERM_TOO_SMALL:.0%} of the total at step 1; is loss.{name}.weight meant so?"
                )

    def after_epoch(self, training: Training, parts: Mapping[str, float]) -> bool:
        """Measure on the validation split, remember the best, log; False ends the stage early."""
        student = self.evaluated()
        logits, targets = answers(student, self.val, self.machine)
        values = {"val_top1": top_k_accuracy(logits, targets, 1), "val_nll": negative_log_likelihood(logits, targets)}
        if self.teacher_val is not None:
            values["val_agreement"] = agreement(logits, self.teacher_val)
        training.history.append({"epoch": training.epoch, "step": training.step, **parts, **values})
        best = self.is_best(values)
        if best:
            weights = {name: value.detach().cpu().clone() for name, value in student.net.state_dict().items()}  # type: ignore[union-attr]
            training.best = {"epoch": training.epoch, "top1": values["val_top1"], "nll": values["val_nll"], "weights": weights}
        seconds, self.epoch_started = time.monotonic() - self.epoch_started, time.monotonic()
        rate = self.batches.batches_per_epoch * self.session.config.trainer.batch_size / seconds
        self.session.console.epoch(training.epoch, dict(parts), f"val {values['val_top1']:>7.2%}", rate, best)
        if self.session.run is not None:
            self.log.write({"kind": "epoch", "epoch": training.epoch, "step": training.step, **values, "best": best, "seconds": seconds})
            self.session.tracker.log(self.task.name, training.step, values)
        return not self.finished()

    def evaluated(self) -> nn.Module:
        """The weights that count: the average where there is one."""
        if self.shadow is None or self.training.ema is None:
            return self.training.method.student
        self.shadow.load_state_dict(self.training.ema.weights)
        return self.shadow

    def is_best(self, values: Mapping[str, float]) -> bool:
        """By accuracy, then by NLL; NaN is never best. With select=last every epoch is."""
        best = self.training.best
        if not best or self.session.config.trainer.select == "last":
            return True
        return (values["val_top1"], -values["val_nll"]) > (best["top1"], -best["nll"])

    def finished(self) -> bool:
        training, patience = self.training, self.session.config.trainer.early_stopping_epochs
        stale = bool(training.best) and patience is not None and training.epoch - training.best["epoch"] >= patience
        return training.epoch >= self.task.budget.epochs or (stale and training.batch == 0)

    def ship(self) -> None:
        """Write the best weights for the world, and then, as the last thing, that this stage is done."""
        session, task, best = self.session, self.task, self.training.best
        if session.run is None:
            return
        net, data = self.obtained.net, session.data
        classifier = self.obtained.classifier
        size = classifier.resolution or data.image_size
        record = {
            "format_version": 1,
            "role": task.role,
            "stage": task.name,
            "architecture": {
                "source": net.source,
                "name": net.name,
                "stem": net.stem,
                "args": net.args,
                "edits": [list(edit) for edit in net.edits],
                "image_size": size,
            },
            "classes": list(data.classes),
            "preprocessing": {
                "image_size": size,
                "resize": round(size / 0.875) if isinstance(data.test.images, list) else size,
                "mean": [float(value) for value in classifier.mean.flatten()],
                "std": [float(value) for value in classifier.std.flatten()],
            },
            "dataset": dataset_record(session),
            "metrics": {"val_top1": best["top1"], "val_nll": best["nll"]},
            "epoch": best["epoch"],
            "epochs": task.budget.epochs,
            "seed": session.config.seed,
            "parents": {
                "teacher": fingerprint(task.teacher.model) if task.teacher is not None else None,
                "start": self.obtained.record["sha256"] if self.obtained.record else None,
            },
            "versions": outputs.versions(),
        }
        written = ship(self.folder, task.role, best["weights"], record, load_script(net, task.role, record))
        session.run.finish_stage(
            task.name,
            {"epochs": self.training.epoch, "best_epoch": best["epoch"], "steps": self.training.step, "sha256": written["sha256"]}
            | record["metrics"],
        )


def make_optimizer(config: Mapping[str, Any], parameters: list[nn.Parameter], lr_scale: float) -> torch.optim.Optimizer:
    """`optimizer.*` over all trainable parameters. `initial_lr` is what a schedule's factor multiplies."""
    optimizer = build(config, torch.optim.Optimizer, "optimizer", parameters)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = float(group["lr"]) * lr_scale
    return optimizer


def start_from(model: ModelConfig, weights: Path) -> ModelConfig:
    """The same model, beginning with the weights of another stage."""
    return replace(model, name="recorded", checkpoint=str(weights), pretrained=False, new_head=False, ignore_class_names=True)


def dataset_record(session: Session) -> dict[str, Any]:
    """The data set's config, so that evaluate finds the same images again."""
    from dataclasses import asdict

    content = asdict(session.config.dataset)
    root = content["root"]
    return content | {"root": str(Path(root).resolve()) if root else None, "fingerprint": session.data.fingerprint}


def interrupted(session: Session) -> Interrupted:
    """Everything is saved; say how to go on."""
    return Interrupted(
        f"interrupted; go on with: distillctl {command_of(session.config)} resume={session.folder}", session.stop.signal_number or 15
    )


def device_name(machine: Any) -> str:
    name = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else f"CPU ({torch.get_num_threads()} threads)"
    return f"{machine.world} x {name}" if machine.world > 1 else name
