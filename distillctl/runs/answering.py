"""A run whose teacher is a file of answers: what is checked and said of it before training, and what of the file decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distillctl import outputs
from distillctl.build import find_class
from distillctl.config import ANSWERS, API, TOLD, ModelConfig, TeacherConfig
from distillctl.errors import ConfigError, DataError
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.metrics import quality
from distillctl.metrics.chance import is_near_chance
from distillctl.metrics.metric import percent
from distillctl.models.taps import LOGITS
from distillctl.runs import choose, objective
from distillctl.runs.bundle import Bundle
from distillctl.runs.sources import Given, Source
from distillctl.runs.steps import Plan, Row, Step
from distillctl.teachers.answers import table
from distillctl.teachers.answers.matching import UNKNOWN, Known, match
from distillctl.teachers.answers.table import Table

KEY = "answers"  # of run.json
SHOWN = 10  # classes whose agreement is told; of more the worst ones


def is_answers(source: Source | None) -> bool:
    """Whether a teacher is no model."""
    return isinstance(source, Given) and source.model.name in TOLD


def of_config(config: Any) -> TeacherConfig | None:
    """The teacher of a command's config where it is answers: a file of them, or those of an endpoint."""
    teacher = getattr(config, "teacher", None)
    return teacher if isinstance(teacher, TeacherConfig) and teacher.name in TOLD else None


def classes_of(teacher: TeacherConfig) -> list[str] | None:
    """What answers call the classes: samples without labels may have no other names for them."""
    if teacher.name == API:
        return list(map(str, teacher.verbalizer)) or None
    return list(table.read(teacher).classes)


def check_file(model: ModelConfig) -> None:
    """What is wrong with the file alone. Raises DataError."""
    assert isinstance(model, TeacherConfig)
    table.read(model)


def with_answers(bundle: Bundle, told: Table) -> Bundle:
    """The bundle with what a table knows of it. Without labels, training samples that it does not know are left out: nothing is said of them."""
    data = bundle.data
    known = match(told, data, bundle.config)
    if not bundle.config.labels and known.count("train") < len(data.train):
        kept = (known.places["train"] != UNKNOWN).nonzero()[:, 0]
        left_out, data = len(data.train) - len(kept), replace(data, train=data.train.take(kept.tolist()))
        places = {**known.places, "train": known.places["train"][kept]}
        known = replace(known, places=places, index=data.train.index, left_out=left_out)
    return replace(bundle, data=data, answers=known)


def same_as_before(run: outputs.RunFolder, known: Known) -> None:
    """A resumed run must not go on by other answers. Raises DataError."""
    before = run.record.get(KEY)
    if isinstance(before, dict) and before.get("sha256") != known.table.sha256:
        raise DataError(f"{known.table.file}: the file is not what it was when this run started; put it back, or start a new run")
    counts = {part: known.count(part) for part in known.places}
    run.record[KEY] = {"file": known.table.name, "sha256": known.table.sha256, "answered": counts, "left_out": known.left_out}
    run.write()


def check_plan(plan: Plan) -> None:
    """What cannot be learnt from answers alone, found without data. Raises ConfigError."""
    for step in taught(plan):
        check_taps(step.teacher, step.taps("teacher"))
        if step.method and not find_class(step.method, Method, "method").asks_of_views:
            kind = find_class(step.method, Method, "method").__name__
            raise ConfigError(f"{said(step.teacher)}: {kind} asks its teacher about other samples, or looks inside it; take method=distill")


def check_taps(teacher: Source | None, taps: tuple[str, ...]) -> None:
    """Raises ConfigError where anything but the answer is read."""
    within = [name for name in taps if name != LOGITS]
    if within:
        raise ConfigError(
            f"{said(teacher)}: answers are logits alone, and {', '.join(within)} of the teacher is read; take a loss on logits, as loss=kd"
        )


def check_with_data(bundle: Bundle, step: Step, config: Any) -> None:
    """What can be told once the data are there. Raises ConfigError."""
    known = bundle.answers
    if known is None or not is_answers(step.teacher):
        return
    if bundle.train_batches(step.seed).mixes:
        raise ConfigError(
            f"{known.table.file}: its answers are about {bundle.inputs.noun} as they are stored, and here they are mixed; "
            "set dataset.augment.mixup=0 dataset.augment.cutmix=0"
        )
    asked = [config.trainer.select_by, *objective.names_of(config.objective)]
    for key, name in zip(("trainer.select_by", *["objective"] * len(asked)), asked, strict=False):
        if name in choose.BY_TEACHER and known.of("val") is None:
            count = f"{known.count('val'):,} of {len(bundle.data.val):,} validation {bundle.inputs.noun}"
            raise ConfigError(f"{key}={name} compares with the teacher, and {known.table.file} answers {count}; take {usual(bundle, key)}")


def usual(bundle: Bundle, key: str) -> str:
    return f"{key}=val_top1" if bundle.data.val.labelled else "trainer.select=last"


def taught(plan: Plan) -> Iterator[Step]:
    """The steps that answers teach."""
    return (step for step in plan.todo if is_answers(step.teacher))


def said(source: Source | None) -> str:
    assert isinstance(source, Given)
    return f"teacher.file={source.model.file}" if source.model.name == ANSWERS else f"teacher={source.model.name}"


def remarks(bundle: Bundle, plan: Plan) -> Iterator[str]:
    """What is known before training of the answers that teach: how many samples have one, and how often it is the label; a line each."""
    known, steps = bundle.answers, list(taught(plan))
    if known is None or not steps:
        return
    noun, train = bundle.inputs.noun, bundle.data.train
    count, total = known.count("train"), len(train) + known.left_out
    line = f"teacher: {known.table.name} (sha256 {known.table.sha256[:8]}) answers "
    rest = f"the other {total - count:,}"
    if count == total:
        yield f"{line}all {total:,} training {noun}"
    elif known.left_out:
        yield f"{line}{count:,} of {total:,} training {noun}; {rest} are left out, as they have no labels either"
    elif any(reads_labels(step) for step in steps):
        yield f"{line}{count:,} of {total:,} training {noun}; {rest} learn from their labels alone"
    else:
        yield f"{line}{count:,} of {total:,} training {noun}; {rest} teach nothing, as no loss term reads labels: dataset.labels=false leaves them out"
    if unused := known.unused():
        yield f"teacher: {unused:,} more of its answers are about samples that are in no split here"
    yield from agreement(known, bundle)
    measured = [
        f"{known.count(part):,} of {len(bundle.data.split(part)):,} {name} {noun}"
        for part, name in (("val", "validation"), ("test", "test"))
    ]
    row = "a row of the table is about it" if known.of("test") is not None else "no row of the table is about it"
    also = f"it answers {' and '.join(measured)}" if known.count("val") or known.count("test") else f"it knows no validation or test {noun}"
    yield f"teacher: {also}; {row}"


def measured_rows(bundle: Bundle, plan: Plan) -> list[Row]:
    """The rows that the table will have: that of answers only where they know all that is measured."""
    return [row for row in plan.rows if not (is_answers(row.model) and bundle.answers is not None and bundle.answers.of("test") is None)]


def reads_labels(step: Step) -> bool:
    return any(getattr(term, "needs_labels", False) and not term.needs_teacher for term in build_loss(step.loss).terms.values())


def agreement(known: Known, bundle: Bundle) -> Iterator[str]:
    """How often an answer's best class is the label, in all and by class, of training samples that have both."""
    if not bundle.data.train.labelled:
        return
    answered = known.places["train"] != UNKNOWN
    logits, targets = known.logits[known.places["train"][answered]], bundle.data.train.targets[answered]
    right, names = quality.right(logits, targets), bundle.data.classes
    by_class = sorted((share(right, targets == place), place) for place in targets.unique().tolist())
    told = by_class[:SHOWN] if len(by_class) > SHOWN else sorted(by_class, key=lambda each: each[1])
    shown = ", ".join(f"{names[place]} {percent(found)}" for found, place in told)
    of_them = f"the {SHOWN} worst of {len(by_class)} classes" if len(by_class) > SHOWN else "by class"
    yield f"teacher: its best class is the label of {percent(float(right.double().mean()))} % of these; {of_them}: {shown}"
    if is_near_chance(float(right.double().mean()), len(names), len(targets)):
        yield f"teacher: that is near chance ({percent(1 / len(names))} %): are its {known.table.key}s those of this data set?"


def share(right: Tensor, chosen: Tensor) -> float:
    return float(right[chosen].double().mean()) if torch.any(chosen) else 0.0
