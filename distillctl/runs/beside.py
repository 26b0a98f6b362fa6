"""What a run writes beside its exported files: labels, a script that runs them, the page for a browser, and at the end the card with what was measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl.config import ExportStepConfig, ModelConfig
from distillctl.export.card import Facts, Teacher, card
from distillctl.export.labels import labels_text
from distillctl.export.licences import Origin
from distillctl.export.predict_script import predict_script
from distillctl.export.web import write_web
from distillctl.formats import bytes_of, format_of
from distillctl.models import catalogue
from distillctl.models.record import Record
from distillctl.models.shipping import read_record
from distillctl.outputs import RunFolder
from distillctl.paths import as_path
from distillctl.runs.artifact import Work
from distillctl.runs.session import Session
from distillctl.runs.sources import Given, MadeBy, Several
from distillctl.runs.steps import Plan, Transform
from distillctl.state import write_atomically

CARD, LABELS, SCRIPT = "README.md", "labels.txt", "predict.py"


def write_beside(file: Path, classes: Sequence[str]) -> None:
    """Labels, and where a few lines of Python run the file, those."""
    write_atomically(file.with_name(LABELS), [labels_text(classes).encode()])
    if file.suffix == ".onnx":
        write_atomically(file.with_name(SCRIPT), [predict_script(file.name).encode()])


def web(work: Work) -> dict[str, Any]:
    """The folder of a page that runs the model in a browser."""
    keys: ExportStepConfig = work.step.settings
    given = work.step.model
    assert isinstance(given, Given), given
    assert given.model.checkpoint is not None
    assert keys.web_runtime is not None
    title = f"What is in this {work.bundle.inputs.noun.removesuffix('s')}?"
    write_web(work.folder, Path(given.model.checkpoint), work.bundle.inputs.classes, as_path(keys.web_runtime), title)
    work.session.console.say(
        f"{work.step.name}: {work.folder}; to look at it: python -m http.server --directory {work.folder}, then localhost:8000"
    )
    return {"file": False}


def write_cards(session: Session, plan: Plan, made: Mapping[str, Path], rows: Sequence[Mapping[str, Any]]) -> None:
    """A card for each exported file of a run, once it was measured."""
    for row in plan.rows:
        step = next((step for step in plan.transforms if row.model == MadeBy(step.name) and step.does in ("export", "quantize")), None)
        found = next((found for found in rows if found["model"] == row.name), None)
        if step is None or found is None or session.run is None:
            continue
        file = made[step.name]
        record = read_record(file, "checkpoint")
        assert record is not None, file
        text = card(record, facts(session, plan, step, file, record, found, rows))
        write_atomically(file.with_name(CARD), [text.encode()])


def facts(
    session: Session, plan: Plan, step: Transform, file: Path, record: Record, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Facts:
    assert session.run is not None
    assert record.exported is not None
    data, done = session.bundle(plan.test).data, session.run.record["stages"].get(step.name, {})  # here, on rank 0 alone
    before: Mapping[str, Any] = next(
        (row for row in reversed(rows[: rows.index(found)]) if row["model"] in [each.name for each in plan.rows if each.own]), {}
    )
    verified = done.get("verified", {})
    keys = session.config.export
    return Facts(
        file.name,
        record.exported.to_json(),
        bytes_of(file),
        record.temperature,
        {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        teacher_of(plan, rows),
        origin_of(plan.base(step.model)),
        found,
        before,
        found["n"],
        verified=verified | ({"tolerance": keys.tolerance} if step.does == "export" and verified else {}),
        runtime=format_of(record.exported.format).runtime,
        hardware=platform.processor() or platform.machine(),
        beside=[name for name in (LABELS, SCRIPT) if file.with_name(name).exists()],
        command=command_of(session.run),
    )


def teacher_of(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Teacher | None:
    found = next((row for row in rows if row["model"] == "teacher"), None)
    if found is None:
        return None
    source = plan.row("teacher").model
    origin = None if isinstance(source, Several) else origin_of(plan.base(source))
    return Teacher(found["architecture"], found.get("top1"), found.get("n"), origin)


def origin_of(model: ModelConfig) -> Origin | None:
    """Where its weights began; None where they are of a file, which nobody asks."""
    if model.checkpoint is not None or model.file is not None:
        return None
    if not model.pretrained:
        return Origin("scratch")
    source, name = catalogue.resolve(model.name, model.source)
    return Origin(source, name)


def command_of(run: RunFolder) -> str:
    """The line that made the run, without where things lie on this machine."""
    words = [str(word) for word in run.record.get("arguments", ())]
    shown = [word if "/" not in word else f"{word.partition('=')[0]}=..." for word in words if not word.startswith("hydra.")]
    return " ".join(["distillctl", str(run.record.get("command", "")), *shown])
