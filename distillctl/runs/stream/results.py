"""What a stream was worth: accuracy before learning, by time and by model, drifts, refreshes, releases; and where it is written."""

from __future__ import annotations

from typing import Any

from torch import nn

from distillctl.data.split import UNLABELLED
from distillctl.files import open_file, parse_json
from distillctl.metrics.answers import answers
from distillctl.models.adapter import Adapter
from distillctl.report import table
from distillctl.runs.stream.driver import STUDENT, TEACHER, Pass, shown
from distillctl.runs.stream.releases import DEPLOYED, WEIGHTS

POINTS = 100
ROWS = {"ema": "average", "student": "snapshot", "model": "teacher"}  # what the row of each kind of teacher is called


def conclude(stream: Pass) -> None:
    """Measure, print the table, close the run."""
    session = stream.session
    rows = [row_of(stream, name, model) for name, model in models(stream).items()]
    results = table.Results(rows, STUDENT, (STUDENT,), stream.bundle.inputs.noun, over_seeds="")
    test = stream.bundle.data.test
    beside = f"; top-1: test, {len(test):,} {results.noun}" if len(test) and test.labelled else ""
    session.console.table(results.table(f"stream of {stream.progress.position:,} samples{beside}"))
    for line in remarks(stream):
        session.console.say(line)
    if session.run is None:
        return
    session.run.record["plan"] = {
        "steps": [],
        "rows": [{"name": STUDENT, "role": "student", "own": True, "file": f"{DEPLOYED}/{WEIGHTS}"}],
        "final": STUDENT,
    }
    session.run.finish_stage("stream", {"steps": stream.progress.batches, "samples": stream.progress.position})
    session.run.finish(results.summary(session.config.seed) | {"stream": told(stream)})
    session.console.say(f"results: {session.folder / 'summary.json'}")


def models(stream: Pass) -> dict[str, Adapter]:
    """By the names of their rows, the teacher first."""
    found: dict[str, Adapter] = {}
    if stream.guide is not None:
        found[ROWS[stream.guide.name]] = stream.guide.model
    return found | {name: learner.student for name, learner in stream.learners.items()}


def row_of(stream: Pass, name: str, model: Adapter) -> dict[str, Any]:
    learner = stream.learners.get(name)
    test, classes = stream.bundle.data.test, len(stream.bundle.inputs.classes)
    return {
        "model": name,
        "architecture": architecture(stream, name),
        "classes": classes,
        "n": len(test),
        "top1": top1(stream, model),
        **stream.scores[name if learner is not None else TEACHER].figures(),
        "parameters": sum(value.numel() for value in model.parameters()),
        "memory_mb": learner.memory.bytes / 2**20 if learner is not None else None,
    }


def architecture(stream: Pass, name: str) -> str:
    own = stream.learners[STUDENT].obtained.net.name
    return str(stream.config.teacher.name) if name == "teacher" and stream.config.teacher.name != "recorded" else own


def top1(stream: Pass, model: nn.Module) -> float | None:
    """On the test split, where there is one with labels."""
    test = stream.bundle.data.test
    if not len(test) or not bool((test.targets != UNLABELLED).all()):
        return None
    logits, targets = answers(model, stream.bundle.plain_batches(test), stream.machine)
    return float((logits.argmax(1) == targets).double().mean())


def told(stream: Pass) -> dict[str, Any]:
    """What summary.json says of the stream besides the rows."""
    progress = stream.progress
    held = stream.held.bytes + stream.recent.bytes
    return {
        "samples": progress.position,
        "batches": progress.batches,
        **{name: getattr(progress, name) for name in ("learnt", "held_out", "unlearnt", "left_out", "digest")},
        "drifts": progress.drifts,
        "refreshes": progress.refreshes,
        "releases": progress.releases,
        "curve": curve(stream),
        "memory_bytes": stream.learners[STUDENT].memory.bytes,
        "window_bytes": held,
    }


def curve(stream: Pass) -> list[dict[str, Any]]:
    """Accuracy before learning by time: at most POINTS lines of metrics.jsonl, evenly spread, the last among them."""
    if not stream.log.size():
        return []
    with open_file(stream.log.path) as file:
        found = list(map(parse_json, file))
    every = max(1, -(-len(found) // POINTS))
    names = (
        "position",
        "time",
        *(f"{prefix}{key}" for prefix in ("", "alone.", "teacher.") for key in ("prequential", "windowed", "fading")),
    )
    return [{name: line[name] for name in names if name in line} for line in found[::-1][::every][::-1]]


def remarks(stream: Pass) -> list[str]:
    progress = stream.progress
    released = sum(line["what"] == "released" for line in progress.releases)
    found = [
        f"learnt once: {progress.learnt:,}; held out: {progress.held_out:,}"
        + (f"; without label or teacher: {progress.unlearnt:,}" if progress.unlearnt else "")
        + (f"; unreadable: {progress.left_out:,}" if progress.left_out else "")
    ]
    if progress.drifts:
        found.append(f"drifts told at {', '.join(f'{place:,}' for place in progress.drifts)}")
    for line in progress.refreshes[-3:]:
        found.append(f"teacher refreshed at {line['position']:,}: {shown(line['before'])} -> {shown(line['after'])} of what was held out")
    if progress.releases:
        found.append(
            f"models: {released} released, {len(progress.releases) - released} refused; deployed: {stream.session.folder / DEPLOYED}"
        )
    return found
