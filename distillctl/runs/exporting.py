"""The step that writes a model for another runtime, and sees whether the file is right."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillctl.config import ExportStepConfig
from distillctl.errors import ConfigError, UserError
from distillctl.export import verify as verifying
from distillctl.formats import format_of
from distillctl.formats.format import Form, Format
from distillctl.formats.program import Program
from distillctl.metrics import cost
from distillctl.metrics.artifact import file_mb
from distillctl.metrics.calibration import fit_temperature
from distillctl.models.obtain import obtain
from distillctl.models.record import Exported, Parents, Record
from distillctl.models.shipping import METADATA, describe, read_record
from distillctl.paths import as_path
from distillctl.runs.artifact import Work
from distillctl.runs.beside import write_beside
from distillctl.runs.ship import first_record
from distillctl.runs.sources import start_from
from distillctl.runs.steps import Verify


def export(work: Work) -> dict[str, Any]:
    """Write the file, run it back on validation samples, and leave it with its record; refused it is taken away again."""
    keys: ExportStepConfig = work.step.settings
    kind = format_of("onnx" if keys.format == "web" else keys.format)
    say = work.session.console.say
    record = record_of(work, kind, keys)
    write(work, kind, keys, record)
    try:
        complete = describe(work.file, record)
        found = check(work, kind, keys)
    except UserError:
        for part in (*kind.files(work.file), work.file.with_suffix(".json")):
            part.unlink(missing_ok=True)
        raise
    write_beside(work.file, record.classes)
    say(f"{work.step.name}: {work.file}, {file_mb(work.file):.2f} MB{f'; {found.in_words()}' if found is not None else ''}")
    if found is None:
        return {"sha256": complete.sha256, "format": kind.name, "why": kind.elsewhere, "runs": False}
    why = f"the file answers as the student does (a logit differs by {found.max_error:.1g} at most, on {found.n:,} validation samples)"
    return {"sha256": complete.sha256, "format": kind.name, "verified": found.to_json(), "why": why}


def record_of(work: Work, kind: Format, keys: ExportStepConfig, fitted: bool = True) -> Record:
    """What is known of the file before there is one: of the model all that its own record says. fitted: with the temperature of its answers."""
    model = work.model
    plain = first_record(work.session, work.bundle, model, work.step.role, work.step.name)
    known = model.record
    exported = Exported(kind.name, keys.preprocess if kind.inside else "beside", "fp32", cost.parameters(model.classifier), macs_of(work))
    start = known.sha256 if known is not None else None
    teacher = known.parents.teacher if known is not None else None
    found = replace(plain, exported=exported, temperature=temperature_of(work) if fitted else None, parents=Parents(teacher, start))
    return found if known is None else replace(found, epoch=known.epoch, epochs=known.epochs, seed=known.seed)


def macs_of(work: Work) -> int | None:
    try:
        return cost.macs(work.model.classifier, work.bundle.inputs.example(1, torch.device("cpu")))
    except RuntimeError:  # its path depends on values
        return None


def temperature_of(work: Work) -> float | None:
    """What makes its probabilities true on the validation split; where that has no labels what its record says."""
    if not work.labelled:
        return work.model.record.temperature if work.model.record is not None else None
    return fit_temperature(*work.answers)


def write(work: Work, kind: Format, keys: ExportStepConfig, record: Record, net: nn.Module | None = None, file: Path | None = None) -> None:
    """net: in place of the model's own. file: where to, if not where the step leaves it."""
    model, inputs = work.model.classifier, work.bundle.inputs
    assert record.exported is not None
    inside, fixed = record.exported.preprocess == "inside", not kind.flexible
    if keys.preprocess == "inside" and not inside:
        work.session.console.say(f"{work.step.name}: {kind.name} holds no preprocessing; student.json says what its input is")
    before = inputs.before_net(model, fixed) if inside else None
    program = Program(copy.deepcopy(model.net) if net is None else net, before, record.temperature or 1.0).eval()
    example = inputs.file_example(model, inside, fixed)
    metadata = {METADATA: json.dumps(record.essence(), sort_keys=True)}
    form = Form(record.exported.preprocess, keys.opset, record.exported.precision)
    kind.write(program, example if kind.batch else example[:1], file or work.file, form, metadata)


def check(work: Work, kind: Format, keys: ExportStepConfig) -> verifying.Verification | None:
    """Run it back in its own runtime; None where that cannot be here."""
    if kind.elsewhere:
        work.session.console.warn(f"{work.step.name}: {kind.elsewhere}")
        return None
    return verified(work, work.file, keys, str(work.file))


def verify(work: Work) -> dict[str, Any]:
    """Compare a file that is there already; it is left as it is."""
    asked: Verify = work.step.settings
    record = read_record(as_path(asked.file), "verify")
    if record is not None and record.exported is not None and record.exported.precision != "fp32":
        raise ConfigError(
            f"verify={asked.file}: its numbers are {record.exported.precision}, and its logits differ by design; "
            f"distillctl evaluate checkpoint={asked.file} teacher.checkpoint=<what it was made from> says by how much"
        )
    found = verified(work, as_path(asked.file), asked.keys, f"verify={asked.file}")
    work.session.console.say(f"{asked.file}: right; {found.in_words()}")
    return {"file": False, "verified": found.to_json()}


def verified(work: Work, file: Path, keys: ExportStepConfig, where: str) -> verifying.Verification:
    """Compare any file with the step's model. Raises CheckpointError where it is not what it should be."""
    given = work.step.model
    model = start_from(given.model, file)  # type: ignore[union-attr]
    written = obtain(model, work.bundle.inputs, work.step.role, work.step.seed)
    if written.record is not None:
        verifying.check_classes(work.bundle.inputs.classes, written.record.classes, where)
    return verifying.verify(
        work.model.classifier, written.classifier.eval(), work.validation(keys.samples), work.labelled, keys.tolerance, where
    )
