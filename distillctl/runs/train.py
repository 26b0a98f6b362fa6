"""Run a step, or what is left of it: what `fit` leaves to its caller."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distillctl import compose, outputs
from distillctl.errors import CheckpointError
from distillctl.loop import Report, fit
from distillctl.metrics.answers import answers
from distillctl.report import terms
from distillctl.runs import checkpoints, choose, keeping
from distillctl.runs.assemble import Assembly, assemble
from distillctl.runs.clock import Allowance
from distillctl.runs.lengths import length, most_steps
from distillctl.runs.lifelong.boundary import end_of_task
from distillctl.runs.measure import examined, knows_validation, validation
from distillctl.runs.session import Session
from distillctl.runs.ship import ship_step
from distillctl.runs.steps import Step
from distillctl.runtime import precision_name
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.training import Training


def train(session: Session, step: Step) -> Path:
    """Train a step whose models are all given, and return the shipped weights. A finished step is not touched."""
    folder = session.stage_folder(step.name)
    file = folder / f"{step.role}.safetensors"
    if session.stage_record(step.name) is not None:
        if not file.is_file():
            raise CheckpointError(f"{file}: the run's record says that this stage is done, but the file is gone; start a new run")
        session.console.say(f"{step.name}: done before, {file}")
        return file
    if session.runtime.highest(int(session.stop())):
        raise session.interrupted()
    Stage(session, assemble(session, step), folder).run()
    session.runtime.barrier()
    return file


class Stage:
    """A step that is running. Everything that must survive a kill is in `training`."""

    def __init__(self, session: Session, assembly: Assembly, folder: Path):
        self.session, self.machine, self.folder = session, session.runtime, folder
        self.assembly, self.step, self.data = assembly, assembly.step, assembly.bundle.data
        self.inputs = assembly.bundle.inputs
        self.training = assembly.training
        self.settings = assembly.settings(session.config.trainer, most_steps(session, assembly.step))
        self.time_is_up = False
        self.shadow = copy.deepcopy(self.training.method.averaged()) if self.training.ema else None
        self.log = outputs.MetricsLog(folder / "metrics.jsonl")
        self.val = assembly.bundle.plain_batches(self.data.val)
        self.teacher_val: Tensor | None = None
        self.ranking = choose.ranking(session.config.trainer, self.data.val.labelled, knows_validation(assembly.teacher))
        self.epoch_started, self.samples_before = time.monotonic(), 0

    def run(self) -> None:
        session, assembly, training = self.session, self.assembly, self.training
        self.share_time(checkpoints.take_up(session, assembly, self.folder, self.log))
        self.samples_before = training.samples
        settings, teacher, say = self.settings, assembly.teacher, session.console.say
        if teacher is not None:
            self.measure_teacher(teacher)
        chosen = choose.in_words(self.ranking, session.config.trainer, self.step.name, self.data.val, self.inputs.noun)
        before = fingerprint(teacher.model) if teacher is not None else None
        for line in filter(None, (chosen, assembly.part.summary)):
            say(line)
        session.console.start_stage(
            self.step.name, self.describe(), settings.epochs, settings.batches_per_epoch, training.step, rate=self.inputs.rate
        )
        if not self.finished() or training.batch or not training.history:  # however short the time, one step is taken and measured
            fit(
                training,
                assembly.feed(),
                settings,
                self.machine,
                after_step=self.after_step,
                after_epoch=self.after_epoch,
                save=lambda training: checkpoints.save(session, assembly, self.folder, self.log),
                asked_to_stop=session.stop,
            )
        session.console.end_stage()
        if line := keeping.summary(teacher):
            say(line)
        if not self.finished() or training.batch:
            raise session.interrupted()
        self.say_whether_cut()
        if teacher is not None:
            assert fingerprint(teacher.model) == before, "the teacher was changed by training"
        learnt = end_of_task(session, assembly, self.evaluated("student"), self.folder) if self.step.tasks else {}
        if session.run is not None:
            ship_step(session, assembly, self.time_is_up, learnt)

    def share_time(self, before: Mapping[str, Any]) -> None:
        """Where the run may take so many minutes only, this step's part of them; an earlier attempt may have had some of it."""
        clock = self.session.clock
        clock.step = Allowance(None, float(before.get("spent_s", 0.0)))
        clock.before_s += clock.step.before_s
        if clock.limit_s is None:
            return
        if not clock.sample_s:
            clock.sample_s = self.timed_answers()
        clock.step.allotted_s = self.machine.from_main(before.get("allotted_s") or clock.allot(self.step.name))
        self.settings = replace(self.settings, gone=clock.step.gone)
        self.time_is_up = self.is_late()

    def timed_answers(self) -> float:
        """Seconds for the answer to one validation sample."""
        started = time.monotonic()
        answers(self.evaluated("student"), self.val, self.machine)
        return (time.monotonic() - started) / len(self.data.val)

    def is_late(self) -> bool:
        """Whether the step's time is up, on any rank."""
        return self.settings.gone is not None and bool(self.machine.highest(int(self.session.clock.step.gone() >= 1)))

    def say_whether_cut(self) -> None:
        planned = length(self.step, self.assembly.batches, self.session.config.trainer).steps
        if self.training.step < planned and self.time_is_up:
            self.session.console.say(
                f"{self.step.name}: stopped after {self.training.step:,} of {planned:,} steps by trainer.max_minutes={self.session.config.trainer.max_minutes:g}"
            )

    def describe(self) -> str:
        nets = [pupil.net for pupil in self.assembly.pupils.values()]
        named = " and ".join(net.name + (f" ({net.stem} stem)" if net.source != "cifar" and self.inputs.size else "") for net in nets)
        guided = " by its teacher" if self.assembly.teacher is not None else ""
        return (
            f"{named}{guided}, {len(self.data.train):,} {self.inputs.noun}, {precision_name(self.machine.precision)} on {self.machine.name}"
        )

    def measure_teacher(self, teacher: Frozen) -> None:
        """Its answers to the validation samples through the student's own pipeline, before step 1."""
        step, batches, trainer = self.step, self.assembly.batches, self.session.config.trainer
        self.teacher_val, seconds = examined(self.session, self.assembly.bundle, teacher, step.taught_by)
        self.session.clock.sample_s = max(self.session.clock.sample_s, seconds)
        if not self.training.step and (line := keeping.time_saved(teacher, batches, length(step, batches, trainer).epochs, seconds)):
            self.session.console.say(line)

    def after_step(self, report: Report) -> None:
        self.session.console.step(report)
        own = terms.of_student(report.parts, self.training.method.players)
        if self.session.run is not None:
            values = {"loss": sum(own.values()), **report.parts, "lr": report.lr, "images_per_s": report.images_per_s}
            self.log.write({"kind": "step", "epoch": report.epoch + 1, "step": report.step, **values})
            self.session.tracker.log(self.step.name, report.step, values)
        if report.step == 1 and len(report.parts) > 1 and self.step.tasks[:1] <= (2,):  # of later tasks the same
            loss = self.session.config.loss
            terms.say_sizes(own, loss, self.session.console, compose.weighed_otherwise(loss))

    def after_epoch(self, training: Training, parts: Mapping[str, float]) -> bool:
        """Measure on the validation split, remember the best, log; False ends the step early."""
        values: dict[str, Any] = {}
        for name in self.assembly.pupils:
            student = self.evaluated(name)
            logits, targets = answers(student, self.val, self.machine)
            measured = validation(logits, targets if self.data.val.labelled else None, self.teacher_val, self.ranking)
            if choose.is_best(self.ranking, measured, training.best.get(name)):
                weights = {key: value.detach().cpu().clone() for key, value in student.plain_state().items()}  # type: ignore[operator]
                training.best[name] = {"epoch": training.epoch, "metrics": measured, "weights": weights}
            values |= measured if name == "student" else {f"{name}.{key}": value for key, value in measured.items()}
        training.history.append({"epoch": training.epoch, "step": training.step, **parts, **values})
        best = training.best["student"]["epoch"] == training.epoch
        seconds, self.epoch_started = time.monotonic() - self.epoch_started, time.monotonic()
        rate, self.samples_before = (training.samples - self.samples_before) / seconds, training.samples
        shown = [
            f"{word} {values[key]:>7.2%}"
            for word, key in (("F1", "val_macro_f1"), ("val", "val_top1"), ("agree", "val_agreement"))
            if key in values
        ][:1]
        if not self.step.tasks or training.epoch == self.settings.epochs:  # of many tasks a line each
            self.session.console.epoch(training.epoch, dict(parts), "".join(shown), rate, best)
        if self.session.run is not None:
            self.log.write({"kind": "epoch", "epoch": training.epoch, "step": training.step, **values, "best": best, "seconds": seconds})
            self.session.tracker.log(self.step.name, training.step, values)
        self.time_is_up = self.is_late()
        return not self.finished()

    def evaluated(self, name: str) -> nn.Module:
        """The weights that count: the average where there is one."""
        if self.shadow is None or self.training.ema is None:
            return self.training.method.students()[name]
        self.shadow.load_state_dict(self.training.ema.weights)
        return self.shadow[name] if isinstance(self.shadow, nn.ModuleDict) else self.shadow

    def finished(self) -> bool:
        training, patience = self.training, self.session.config.trainer.early_stopping_epochs
        stale = choose.is_stale(training.epoch, training.best.get("student"), patience)
        return self.settings.is_over(training) or self.time_is_up or (stale and training.batch == 0)
