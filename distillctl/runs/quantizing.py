"""The step that makes the numbers of a file small, and measures on the validation split whether that is worth it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.compress.quantize import auto
from distillctl.compress.quantize.choice import FP32
from distillctl.config import QuantizeConfig
from distillctl.data.loader import PlainLoader
from distillctl.models.record import Parents, Record
from distillctl.models.shipping import describe, riding_record
from distillctl.runs.artifact import Work
from distillctl.runs.beside import write_beside
from distillctl.runs.steps import Given
from distillctl.state import write_atomically


def quantize(work: Work) -> dict[str, Any]:
    """Write the file that `quantize` asks for, and what is to be thought of it."""
    keys: QuantizeConfig = work.step.settings
    scratch = work.folder / "candidates"
    scratch.mkdir(exist_ok=True)
    validation = work.validation()
    targets = validation.split.targets if work.labelled else None
    source = source_of(work)
    task = auto.Task(source, scratch, as_taken(work, work.training(keys.samples)), as_taken(work, validation), targets, keys)
    found, file = chosen(work, task) if keys.name == "auto" else named(work, task)
    write_atomically(work.file, [file.read_bytes()])
    for left in scratch.iterdir():
        left.unlink()
    scratch.rmdir()
    if found["file"]:
        describe(work.file, record_of(work))
        write_beside(work.file, work.bundle.inputs.classes)
    else:
        work.file.unlink()
    return found


def source_of(work: Work) -> Path:
    given = work.step.model
    assert isinstance(given, Given), given
    assert given.model.checkpoint is not None
    return Path(given.model.checkpoint)


def as_taken(work: Work, batches: PlainLoader) -> list[np.ndarray]:
    """Samples in the form in which the file takes them."""
    return [np.ascontiguousarray(work.model.classifier.prepare(batch.inputs).numpy()) for batch in batches]


def named(work: Work, task: auto.Task) -> tuple[dict[str, Any], Path]:
    """The one quantiser that was named. Its file is kept whatever it is worth, and final only where it is right."""
    verdict, file, notes = auto.make(task)
    for line in notes:
        work.session.console.say(line)
    accepted = verdict.problem is None
    why = verdict.sentence if accepted else f"not the quantized file: {verdict.sentence}"
    work.session.console.say(f"{work.step.name}: {work.file}, {file.stat().st_size / 1e6:.2f} MB; {verdict.sentence}")
    if not accepted:
        work.session.console.warn(f"{why}; other ways: quantize=auto, quantize=qat, or a larger quantize.max_drop")
    return {"file": True, "accepted": accepted, "why": why, "notes": list(notes), "figures": [as_json(verdict)]}, file


def chosen(work: Work, task: auto.Task) -> tuple[dict[str, Any], Path]:
    """The fastest of all that are right; no file where that is the one in fp32."""
    choice, file = auto.choose(task)
    for line in (*choice.notes, *(f"{name}: left out, {why}" for name, why in choice.left_out.items())):
        work.session.console.say(line)
    for verdict in choice.verdicts:
        work.session.console.say(f"{work.step.name}: {verdict.sentence}")
    taken = choice.name != FP32
    figures = [as_json(verdict) for verdict in choice.verdicts]
    return {"file": taken, "chosen": choice.name, "why": choice.reason, "notes": list(choice.notes), "figures": figures}, file


def as_json(verdict: Any) -> dict[str, Any]:
    """What run.json says of a candidate."""
    figures = verdict.figures
    return {
        "name": figures.name,
        "size": figures.size,
        **vars(figures.quality),
        "times_as_fast": verdict.times.middle,
        "from": verdict.times.low,
        "to": verdict.times.high,
        "problem": verdict.problem,
    }


def record_of(work: Work) -> Record:
    """That of the fp32 file, of another precision."""
    before = work.model.record
    riding = riding_record(work.file, "quantize")
    assert before is not None
    assert riding is not None
    assert riding.exported is not None
    return replace(before, stage=work.step.name, exported=riding.exported, parents=Parents(before.parents.teacher, before.sha256))
