"""The checkpoint of a stream: everything that a sample changes, in one file, and how it is taken up again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl import state
from distillctl.errors import CheckpointError, DataError, first_line
from distillctl.metrics.prequential import Prequential
from distillctl.runs.checkpoints import machine_in_words, warn_of_other_bits
from distillctl.runs.session import Session
from distillctl.runs.stream.detector import Detector
from distillctl.runs.stream.guide import Guide
from distillctl.runs.stream.learner import Learner
from distillctl.runs.stream.progress import Progress
from distillctl.runs.stream.ring import Ring
from distillctl.runs.stream.source import Source, chained

STAGE = "stream"  # the folder of its checkpoint and metrics


@dataclass(frozen=True)
class Parts:
    """What a checkpoint holds. A sample is learnt and the state written behind it, or neither: what was learnt after the last save is learnt again from there."""

    progress: Progress
    learners: Mapping[str, Learner]
    guide: Guide | None
    scores: Mapping[str, Prequential]
    detector: Detector | None
    held: Ring
    recent: Ring

    def state(self) -> dict[str, Any]:
        return {
            "progress": self.progress.state(),
            "learners": {name: learner.state() for name, learner in self.learners.items()},
            "guide": self.guide.state() if self.guide is not None else None,
            "scores": {name: score.state() for name, score in self.scores.items()},
            "detector": self.detector.state() if self.detector is not None else None,
            "held": self.held.state(),
            "recent": self.recent.state(),
        }

    def load(self, found: Mapping[str, Any]) -> None:
        """Of a state that lacks something, or has another kind of thing there, an error says so."""
        self.progress.load(found["progress"])
        for name, learner in self.learners.items():
            learner.load(found["learners"][name])
        if self.guide is not None:
            self.guide.load(found["guide"])
        for name, score in self.scores.items():
            score.load(found["scores"][name])
        if self.detector is not None:
            self.detector.load(found["detector"])
        self.held.load(found["held"])
        self.recent.load(found["recent"])


def take_up(session: Session, folder: Path, parts: Parts, source: Source) -> None:
    """Go on from the newest valid checkpoint of a folder, if there is one. Raises CheckpointError and DataError."""
    found = state.newest(folder, session.console.warn)
    if found is None:
        return
    content, before = found
    warn_of_other_bits(session, before)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about what is refused in the next line
            parts.load(content)
    except Exception as error:  # whole, so somebody made it like this: there is no end to what may be in it
        raise CheckpointError(f"{folder}: its checkpoint does not fit this stream, model or version: {first_line(error)}") from None
    position = parts.progress.position
    if chained("", source.before(position)) != parts.progress.digest:
        raise DataError(
            f"stream.path={session.config.stream.path}: of the {position:,} samples that were learnt already some are gone, new, or have another "
            "class or time; put them back, or start a new run"
        )
    session.console.say(f"going on behind {position:,} samples")


def save(session: Session, folder: Path, parts: Parts) -> None:
    state.save(folder, parts.state(), description(session, parts))


def description(session: Session, parts: Parts) -> dict[str, Any]:
    """What a checkpoint says of itself, for people and for the checks when it is taken up."""
    return {
        "stage": STAGE,
        "position": parts.progress.position,
        "step": parts.progress.batches,
        **machine_in_words(session),
    }
