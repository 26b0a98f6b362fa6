"""Whether a student replaces the deployed model: only if it is not worse on the samples that were held out lately."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.config import ModelConfig, StreamConfig, StreamStageConfig
from distillctl.data.split import UNLABELLED
from distillctl.metrics.paired import chance_of_no_worse
from distillctl.models.obtain import obtain
from distillctl.models.script import load_script
from distillctl.models.shipping import ship
from distillctl.outputs import sweep
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.ship import first_record
from distillctl.runs.stream.guide import Guide
from distillctl.runs.stream.learner import Learner, logits_of
from distillctl.runs.stream.releases import WEIGHTS, Releases, outdated
from distillctl.runs.stream.ring import Ring
from distillctl.runtime import Runtime
from distillctl.types import mapped

AT_ONCE = 128  # samples


class Gate:
    """Looks at the student where the stream says so. The history keeps each verdict, by its position: a run that comes there again takes it over."""

    def __init__(self, session: Session, bundle: Bundle):
        self.session, self.bundle, self.releases = session, bundle, Releases(session.folder)
        self.config: StreamConfig = session.config
        self.model: nn.Module | None = None
        self.version: int | None = None

    def settle(self) -> None:
        with self.releases.locked():
            self.releases.settle()

    def consider(self, learner: Learner, held: Ring, guide: Guide | None, position: int, time: str, why: str) -> dict[str, Any]:
        """Release the student or refuse it. Returns the line of the history, which is the same however often a run comes here."""
        with self.releases.locked():
            self.releases.settle()
            history = self.releases.history()
            known = next((line for line in history if line.get("position") == position and line["what"] != "rolled back"), None)
            if known is not None:
                return known
            line: dict[str, Any] = {"position": position, "time": time, "why": why, "held_out": len(held)}
            now = self.releases.current
            truth, machine = truth_of(held, guide, self.session.runtime), self.session.runtime
            ours = right(learner.student, held, truth, machine)
            theirs = right(self.incumbent(now), held, truth, machine) if now is not None else None
            line |= {"accuracy": share(ours), "deployed": now, "deployed_accuracy": share(theirs)}
            if self.config.stream.gate == "significant" and ours is not None and theirs is not None:
                line |= compared(ours, theirs)
            if not is_good_enough(line, self.config.stream):
                line = {"what": "refused", **line}
            else:
                number = 1 + max((line["version"] for line in history if line["what"] == "released"), default=0)
                line = {"what": "released", "version": number, **line, "sha256": self.write(learner, number, line)}
                if gone := outdated([*history, line], self.config.stream.keep_versions):
                    line["pruned"] = gone
            self.releases.note(line)
            return line

    def incumbent(self, number: int) -> nn.Module:
        """The deployed model, read once."""
        if self.model is None or self.version != number:
            config = ModelConfig(name="recorded", checkpoint=str(self.releases.version(number) / WEIGHTS))
            self.model = obtain(config, self.bundle.inputs, "student", self.config.seed).classifier.to(self.session.runtime.device).eval()
            if self.config.trainer.channels_last:
                self.model = self.model.to(memory_format=torch.channels_last)
            self.version = number
        return self.model

    def write(self, learner: Learner, number: int, line: dict[str, Any]) -> str:
        """The student as a version of its own. Returns its checksum; the same student gives the same bytes."""
        folder, pupil = self.releases.version(number), learner.obtained
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        record = first_record(self.session, self.bundle, pupil, "student", "stream")
        record = replace(record, metrics={} if line["accuracy"] is None else {"held_out_top1": line["accuracy"]})
        script = load_script(pupil.net, "student", record, pupil.inputs.script())
        return str(ship(folder, "student", learner.student.plain_state(), record, script).sha256)


def compared(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """On how many samples the new model alone is wrong, and alone is right, and how often one that is no worse loses so many."""
    lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    return {"lost": lost, "won": won, "p": chance_of_no_worse(lost, won)}


def is_good_enough(line: dict[str, Any], stage: StreamStageConfig) -> bool:
    """The first model is, and one that nothing can be measured of is not."""
    if line["deployed"] is None:
        return True
    if line["accuracy"] is None or line["deployed_accuracy"] is None:
        return False
    if stage.gate == "significant":
        return bool(line["p"] > stage.alpha)
    return bool(line["accuracy"] >= line["deployed_accuracy"] - stage.tolerance - 1e-12)


def truth_of(held: Ring, guide: Guide | None, machine: Runtime) -> Tensor | None:
    """Labels int64 [N]; where there are none what the teacher answers; None where that knows nothing either."""
    if not len(held):
        return None
    if bool((held.targets != UNLABELLED).all()):
        return held.targets
    return answers(guide.model, held, machine) if guide is not None and guide.knows else None


def accuracy(model: nn.Module, held: Ring, truth: Tensor | None, machine: Runtime) -> float | None:
    return share(right(model, held, truth, machine))


def right(model: nn.Module, held: Ring, truth: Tensor | None, machine: Runtime) -> Tensor | None:
    """Which samples a model answers rightly, bool [N]."""
    return None if truth is None else answers(model, held, machine) == truth


def share(right: Tensor | None) -> float | None:
    return None if right is None else float(right.double().mean())


def answers(model: nn.Module, held: Ring, machine: Runtime) -> Tensor:
    """The class that a model gives to each sample, int64 [N]."""
    pieces = range(0, len(held), AT_ONCE)
    parts = [mapped(held.inputs, lambda column, begin=begin: column[begin : begin + AT_ONCE]) for begin in pieces]  # type: ignore[misc]
    return torch.cat([logits_of(model, part, machine).argmax(1).cpu() for part in parts])
