"""The step that makes the numbers of a file small, and measures on the validation split whether that is worth it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.compress.quantize import auto
from distillctl.compress.quantize.choice import FP32, Verdict
from distillctl.compress.quantize.figures import Candidate, measured
from distillctl.compress.quantize.openvino import write_openvino
from distillctl.config import ExportStepConfig, QuantizeConfig
from distillctl.data.loader import PlainLoader
from distillctl.formats import form_of
from distillctl.metrics.artifact import file_mb
from distillctl.metrics.latency import times_as_fast
from distillctl.models.obtain import Obtained, obtain
from distillctl.models.record import Parents
from distillctl.models.shipping import describe, riding_record
from distillctl.runs import exporting
from distillctl.runs.artifact import Work
from distillctl.runs.beside import write_beside
from distillctl.runs.int8 import in_int8
from distillctl.runs.sources import Given
from distillctl.state import write_atomically


def quantize(work: Work) -> dict[str, Any]:
    """Write the file that `quantize` asks for, and what is to be thought of it."""
    keys: QuantizeConfig = work.step.settings
    scratch = work.folder / "candidates"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    fp32 = reference_of(work)
    validation = work.validation()
    targets = validation.split.targets if work.labelled else None
    calibration, seen = as_taken(fp32, work.training(keys.samples)), as_taken(fp32, validation)
    task = auto.Task(Path(str(fp32.weights)), scratch, calibration, seen, targets, keys)
    if keys.name == "auto":
        found, file = chosen(work, task)
    else:
        verdict, file, notes = written_elsewhere(work, task, fp32) if keys.name in ("qat", "litert", "openvino") else auto.make(task)
        found = named(work, verdict, file, notes)
    if found["file"]:
        taken_over(work, file, fp32)
    shutil.rmtree(scratch)
    if not found["file"]:
        work.folder.rmdir()
    return found


def taken_over(work: Work, file: Path, fp32: Obtained) -> None:
    """A candidate becomes what the step leaves, with its record."""
    for part in form_of(file).files(file):
        write_atomically(work.file.with_suffix(part.suffix), [part.read_bytes()])
    riding = riding_record(work.file, "quantize")
    assert fp32.record is not None
    assert riding is not None
    assert riding.exported is not None
    before = fp32.record
    record = replace(before, stage=work.step.name, exported=riding.exported, parents=Parents(before.parents.teacher, before.sha256))
    describe(work.file, record)
    write_beside(work.file, work.bundle.inputs.classes)


def reference_of(work: Work) -> Obtained:
    """The file of fp32 numbers that those of others are compared with."""
    given = work.step.reference
    assert isinstance(given, Given), given
    return obtain(given.model, work.bundle.inputs, work.step.role, work.step.seed)


def as_taken(file: Obtained, batches: PlainLoader) -> list[np.ndarray]:
    """Samples in the form in which a file takes them."""
    return [np.ascontiguousarray(file.classifier.prepare(batch.inputs).numpy()) for batch in batches]


def written_elsewhere(work: Work, task: auto.Task, fp32: Obtained) -> tuple[Verdict, Path, tuple[str, ...]]:
    """By other quantisers than ONNX Runtime's: as the format has them, or of a net that was trained for it."""
    keys, file = task.config, task.folder / work.file.name
    form = form_of(file)
    assert fp32.record is not None
    if keys.name == "openvino":
        write_openvino(task.source, file, [sample[None] for batch in task.calibration for sample in batch][: keys.samples])
    else:
        inside = replace(fp32.record, exported=replace(fp32.record.exported, precision="int8"))  # type: ignore[type-var]
        net = in_int8(work.model.classifier, work.bundle, Path(str(work.model.weights)).parent) if keys.name == "qat" else None
        exporting.write(work, form, ExportStepConfig(preprocess=inside.exported.preprocess), inside, net, file)  # type: ignore[union-attr]
    candidates = [Candidate(name, each, form.open(each)) for name, each in ((FP32, task.source), (keys.name, file))]
    before, after = measured(candidates, task.validation, task.targets)
    agreement = 0.0 if keys.name == "qat" else keys.min_agreement  # what has learned more need not answer as before
    problem = after.quality.problem(before.quality, keys.max_drop, agreement)
    return Verdict(after, times_as_fast(before.rounds_ms, after.rounds_ms), problem), file, ()


def named(work: Work, verdict: Verdict, file: Path, notes: tuple[str, ...]) -> dict[str, Any]:
    """The one quantiser that was named. Its file is kept whatever it is worth, and final only where it is right."""
    for line in notes:
        work.session.console.say(line)
    accepted = verdict.problem is None
    why = verdict.sentence if accepted else f"not the quantized file: {verdict.sentence}"
    work.session.console.say(f"{work.step.name}: {work.file}, {file_mb(file):.2f} MB; {verdict.sentence}")
    if not accepted:
        others = ", ".join(f"quantize={name}" for name in ("auto", "qat") if name != work.step.settings.name)
        work.session.console.warn(f"{why}; other ways: {others}, or a larger quantize.max_drop")
    return {"file": True, "accepted": accepted, "why": why, "notes": list(notes), "figures": [as_json(verdict)]}


def chosen(work: Work, task: auto.Task) -> tuple[dict[str, Any], Path]:
    """The fastest of all that are right; no file where that is the one in fp32."""
    choice, file = auto.choose(task)
    for line in (*choice.notes, *(f"{name}: left out, {why}" for name, why in choice.left_out.items())):
        work.session.console.say(line)
    for verdict in choice.verdicts:
        work.session.console.say(f"{work.step.name}: {verdict.sentence}")
    taken = choice.name != FP32
    figures = [as_json(verdict) for verdict in choice.verdicts]
    why = choice.reason if taken else "no file of smaller numbers is both faster and right, as was measured above"
    return {"file": taken, "chosen": choice.name, "why": why, "notes": list(choice.notes), "figures": figures}, file


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
