"""The steps of a run that train nothing: a model is cut, written for another runtime, made of smaller numbers. An artifact in, an artifact out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillctl.errors import CheckpointError
from distillctl.runs import beside, exporting, pruning, quantizing, trials
from distillctl.runs.artifact import Work
from distillctl.runs.session import Session, first_on_main
from distillctl.runs.steps import Transform

KINDS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "export": exporting.export,
    "verify": exporting.verify,
    "web": beside.web,
    "prune": pruning.prune,
    "quantize": quantizing.quantize,
    "survey": trials.survey,
    "level": trials.level,
    "judge": trials.judge,
}


def transform(session: Session, step: Transform) -> Path | None:
    """Do a step whose model is given, on rank 0 alone, and return the file that it leaves; None where it leaves none. A finished step is not touched."""
    folder = session.stage_folder(step.name)
    file = folder / f"{step.role}{step.suffix}"
    done = session.stage_record(step.name)
    if done is None:
        if session.runtime.highest(int(session.stop())):
            raise session.interrupted()
        done = session.runtime.from_main(first_on_main(session.runtime, lambda: perform(session, step, folder)))
    else:
        session.console.say(f"{step.name}: done before{f', {file}' if done['file'] else ''}")
    if not done["file"] or not done.get("runs", True):
        return None
    if not file.exists():
        raise CheckpointError(f"{file}: the run's record says that this step is done, but the file is gone; start a new run")
    return file


def perform(session: Session, step: Transform, folder: Path) -> dict[str, Any]:
    """Rank 0's part: the work, and as the last thing that it is done."""
    found = {"file": True, **KINDS[step.does](Work(session, step, folder))}
    if session.run is not None:
        session.run.finish_stage(step.name, found)
    return found
