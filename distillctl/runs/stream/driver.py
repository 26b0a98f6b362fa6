"""One pass over a stream: predict, then learn; tell drifts, refresh the teacher, release, save.

This is no `loop.fit`: a stream has neither epochs nor a known length, a step may have any number of samples, and between two steps everything
that is measured or deployed is a part of the state. A step itself is the loop's (`backward`, `descend`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillctl import draws, outputs
from distillctl.config import ALONE, ImageSetConfig, StreamConfig
from distillctl.data.image.files import BadImage
from distillctl.data.split import UNLABELLED
from distillctl.errors import UserError
from distillctl.metrics.prequential import Prequential
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.stream import opened, saving
from distillctl.runs.stream.detector import Detector
from distillctl.runs.stream.gate import Gate, accuracy, truth_of
from distillctl.runs.stream.guide import Guide
from distillctl.runs.stream.learner import Learner, logits_of
from distillctl.runs.stream.progress import Progress
from distillctl.runs.stream.ring import Ring
from distillctl.runs.stream.saving import STAGE, Parts
from distillctl.runs.stream.source import Entry, chained
from distillctl.types import Batch, Inputs, concatenated, rows

STUDENT, TEACHER = "student", "teacher"


class Pass:
    """A stream that is being learnt. What `parts` lists is all that a sample changes."""

    def __init__(self, session: Session, bundle: Bundle):
        self.session, self.machine, self.bundle = session, session.runtime, opened.as_streamed(bundle)
        self.config: StreamConfig = session.config
        self.stage = self.config.stream
        self.folder: Path = session.stage_folder(STAGE)
        self.source = opened.source_of(session, self.bundle, self.folder, self.save)
        self.read = opened.Reader(self.bundle, getattr(self.config.dataset, "max_pixels", 0))
        like, self.views = opened.like(self.bundle), opened.views_of(session, self.bundle)
        self.held, self.recent = Ring(self.stage.holdout_size, like), Ring(self.stage.recent, like)
        teacher = opened.guide_of(session, self.bundle, self.past, self.views)
        self.learners = {STUDENT: Learner(session, self.bundle, like, self.views, teacher)}
        if teacher is not None and ALONE in self.stage.beside:
            self.learners[ALONE] = Learner(session, self.bundle, like, self.views, None)
        self.guide: Guide | None = self.learners[STUDENT].guide
        names = [*self.learners, *([TEACHER] if self.guide is not None else [])]
        self.scores = {name: Prequential(self.stage.window, self.stage.fading) for name in names}
        self.detector = Detector(name) if (name := detector_kind(self.config)) is not None else None
        self.signal = signal_kind(self.config, self.source.labelled, self.guide is not None)
        self.progress = Progress()
        self.parts = Parts(self.progress, self.learners, self.guide, self.scores, self.detector, self.held, self.recent)
        self.gate = Gate(session, self.bundle)
        self.log = outputs.MetricsLog(self.folder / "metrics.jsonl")

    def run(self) -> None:
        """To the end of the stream. Raises Interrupted where somebody asks to stop, with all saved."""
        self.take_up()
        self.gate.settle()
        while entries := self.next():
            self.learn(entries)
            if self.progress.batches % self.stage.save_every == 0:
                self.save()
            if self.session.stop():
                break
        self.save()
        if self.session.stop():
            raise self.session.interrupted()
        if self.progress.position:
            self.release("the end")
            self.save()

    def next(self) -> Sequence[Entry]:
        """The next batch; none at the end. What cannot be had leaves all before it saved."""
        limit = self.stage.samples
        most = self.bundle.batch_size if limit is None else min(self.bundle.batch_size, limit - self.progress.position)
        if most <= 0:
            return ()
        try:
            return self.source.batch(self.progress.position, most)
        except UserError:
            self.save()
            raise

    def learn(self, entries: Sequence[Entry]) -> None:
        """Predict a batch, then learn it, then do all that its samples bring about."""
        first = self.progress.position
        try:
            good, inputs = self.readable(entries)
        except BadImage:
            self.save()
            raise
        self.progress.left_out += len(entries) - len(good)
        parts: dict[str, float] = {}
        alarm = False
        if good:
            index = torch.tensor([first + place for place in good])
            targets = torch.tensor([entries[place].label for place in good])
            alarm = self.predict(inputs, targets)
            parts = self.step(inputs, targets, index)
        self.progress.position, self.progress.batches = first + len(entries), self.progress.batches + 1
        self.progress.digest = chained(self.progress.digest, entries)
        self.progress.time = entries[-1].time
        self.follow_up(first, alarm)
        self.tell(first, parts)

    def readable(self, entries: Sequence[Entry]) -> tuple[list[int], Inputs]:
        """The places of those that can be read, and what they hold. Raises BadImage, unless bad ones are left out."""
        try:
            return list(range(len(entries))), self.read(entries)
        except BadImage:
            if not (isinstance(self.config.dataset, ImageSetConfig) and self.config.dataset.on_bad_image == "skip"):
                raise
        found: dict[int, Inputs] = {}
        for place, entry in enumerate(entries):
            try:
                found[place] = self.read([entry])
            except BadImage as problem:
                self.session.console.warn(f"{problem}; left out")
        return list(found), concatenated([*found.values()]) if found else torch.empty(0)

    def predict(self, inputs: Inputs, targets: Tensor) -> bool:
        """Note who answers rightly, before anybody learns. Returns whether the detector tells a drift."""
        answers = {name: learner.answers(inputs).cpu() for name, learner in self.learners.items()}
        if self.guide is not None and self.guide.knows:
            answers[TEACHER] = logits_of(self.guide.model, inputs, self.machine).cpu()
        labelled = targets != UNLABELLED
        for name, logits in answers.items():
            self.scores[name].add((logits.argmax(1) == targets)[labelled].tolist())
        if self.detector is None:
            return False
        told = [self.detector.add(value) for value in self.signals(answers, targets, labelled)]
        return any(told)

    def signals(self, answers: dict[str, Tensor], targets: Tensor, labelled: Tensor) -> list[float]:
        """A number a sample, which rises where the stream drifts."""
        own = answers[STUDENT]
        if self.signal == "error":
            return (own.argmax(1) != targets)[labelled].double().tolist()
        if self.signal == "confidence":
            return (1 - own.softmax(1).amax(1)).double().tolist()
        return (own.argmax(1) != answers[TEACHER].argmax(1)).double().tolist() if TEACHER in answers else []

    def step(self, inputs: Inputs, targets: Tensor, index: Tensor) -> dict[str, float]:
        """Learn those that are not held out, once each."""
        device = self.machine.device
        aside = draws.uniform(self.config.seed, "held out", index) < self.stage.holdout
        out, learnt = (rows_of.nonzero().flatten() for rows_of in (aside, ~aside))
        self.held.add(rows(inputs, out.to(device)), targets[out], index[out])
        self.progress.held_out += len(out)
        if not len(learnt):
            return {}
        student = self.learners[STUDENT]
        if not (self.source.labelled or student.method.can_learn_unlabelled):
            self.progress.unlearnt += len(learnt)
            return {}
        plain = rows(inputs, learnt.to(device))
        places = index[learnt].to(device)
        batch = Batch(self.views(plain, places, opened.STREAMED), targets[learnt].to(device), places, opened.STREAMED, plain=plain)
        parts: dict[str, float] = {}
        for name, learner in self.learners.items():
            if self.source.labelled or name == STUDENT:
                told = learner.learn(batch)
                parts |= told if name == STUDENT else {f"{name}.{part}": value for part, value in told.items()}
        if self.guide is not None:
            self.guide.after_step(student.student)
        self.recent.add(plain, targets[learnt], index[learnt])
        self.progress.learnt += len(learnt)
        return parts

    def past(self) -> tuple[Inputs, Tensor, Tensor]:
        """The memory and the recent samples, each once."""
        inputs, targets, index = self.learners[STUDENT].memory.held()
        fresh = ~torch.isin(self.recent.index, index.cpu())
        chosen = fresh.nonzero().flatten()
        device = index.device
        return (
            concatenated([inputs, rows(self.recent.inputs, chosen.to(device))]),
            torch.cat([targets, self.recent.targets[chosen].to(device)]),
            torch.cat([index, self.recent.index[chosen].to(device)]),
        )

    def follow_up(self, first: int, alarm: bool) -> None:
        """What a drift, and what so many samples, bring about."""
        now, every = self.progress.position, self.stage.refresh_every
        if alarm:
            self.progress.drifts.append(now)
            self.session.console.say(f"  {now:,}: a drift is told ({detector_kind(self.config)}, by {self.signal})")
            for learner in self.learners.values():
                learner.start_over(self.stage.forget)
        if self.guide is not None and (
            self.stage.refresh == "drift" and alarm or self.stage.refresh == "every" and every and passed(first, now, every)
        ):
            self.refresh("drift" if alarm and self.stage.refresh == "drift" else f"every {every}")
        if self.stage.release_every is not None and passed(first, now, self.stage.release_every):
            self.release(f"every {self.stage.release_every}")

    def refresh(self, why: str) -> None:
        """The teacher becomes another one; what that is worth on the samples that were held out."""
        guide = self.guide
        assert guide is not None
        truth = truth_of(self.held, None, self.machine)
        line: dict[str, Any] = {"position": self.progress.position, "why": why}
        line["before"] = accuracy(guide.model, self.held, truth, self.machine) if guide.knows else None
        guide.refresh(self.learners[STUDENT].student)
        line["after"] = accuracy(guide.model, self.held, truth, self.machine)
        self.progress.refreshes.append(line)
        self.session.console.say(
            f"  {self.progress.position:,}: teacher refreshed ({why}), on {len(self.held)} held out {shown(line['before'])} -> {shown(line['after'])}"
        )

    def release(self, why: str) -> None:
        """Hold the student against the deployed model."""
        if self.session.run is None or (self.progress.releases and self.progress.releases[-1]["position"] == self.progress.position):
            return
        line = self.gate.consider(self.learners[STUDENT], self.held, self.guide, self.progress.position, self.progress.time, why)
        self.progress.releases.append(line)
        verdict = f"released as version {line['version']}" if line["what"] == "released" else f"refused, version {line['deployed']} stays"
        self.session.console.say(
            f"  {self.progress.position:,}: {verdict}: on {line['held_out']} held out {shown(line['accuracy'])}, deployed {shown(line['deployed_accuracy'])}"
            + (f", no worse by chance: p {line['p']:.3f}" if "p" in line else "")
            + (f"; pruned: version {', '.join(map(str, line['pruned']))}" if "pruned" in line else "")
        )

    def tell(self, first: int, parts: dict[str, float]) -> None:
        """A line of metrics.jsonl every `trainer.log_every` batches, and one for people every window."""
        progress = self.progress
        own = self.scores[STUDENT].figures()
        if progress.batches % self.config.trainer.log_every == 0 and self.session.run is not None:
            values = {key: value for name, score in self.scores.items() for key, value in named(name, score.figures()).items()}
            counts = {name: getattr(progress, name) for name in ("position", "learnt", "held_out", "unlearnt", "left_out")}
            self.log.write({"kind": "stream", "first": first, **counts, "time": progress.time, **values, **parts})
            self.session.tracker.log(
                STAGE, progress.position, {**{key: value for key, value in values.items() if value is not None}, **parts}
            )
        if passed(first, progress.position, self.stage.window) and own["windowed"] is not None:
            beside = "".join(f"  {name} {shown(score.figures()['windowed'])}" for name, score in self.scores.items() if name != STUDENT)
            self.session.console.say(f"  {progress.position:,}: window {shown(own['windowed'])}  fading {shown(own['fading'])}{beside}")

    def take_up(self) -> None:
        """Go on from the newest valid checkpoint, if there is one."""
        saving.take_up(self.session, self.folder, self.parts, self.source)
        if self.session.run is not None:
            self.log.cut(self.progress.log_size)

    def save(self) -> None:
        if self.session.run is not None:
            self.progress.log_size = self.log.size()
            saving.save(self.session, self.folder, self.parts)


def detector_kind(config: StreamConfig) -> str | None:
    return config.stream.detector or ("adwin" if config.stream.refresh == "drift" else None)


def signal_kind(config: StreamConfig, labelled: bool, taught: bool) -> str:
    return config.stream.signal or ("error" if labelled else "disagreement" if taught else "confidence")


def passed(first: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` lies behind `first` and not behind `now`."""
    return first // every != now // every


def named(name: str, figures: dict[str, float | None]) -> dict[str, float | None]:
    return figures if name == STUDENT else {f"{name}.{key}": value for key, value in figures.items()}


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
