"""Write what a finished stage trained, for the world: weights, their record, a script that loads them; and that it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillctl import outputs
from distillctl.config import chosen
from distillctl.inputs.contract import Contract
from distillctl.metrics.metric import on_validation
from distillctl.models.net import Net
from distillctl.models.obtain import Obtained, obtain
from distillctl.models.record import Architecture, Parents, Record
from distillctl.models.script import load_script
from distillctl.models.shipping import ship
from distillctl.runs.assemble import Assembly
from distillctl.runs.bundle import Bundle
from distillctl.runs.int8 import parted, write_quantizers
from distillctl.runs.session import Session
from distillctl.runs.sources import Given
from distillctl.runs.steps import Plan, Row


def ship_step(session: Session, assembly: Assembly, out_of_time: bool = False, learnt: Mapping[str, Any] | None = None) -> None:
    """The best weights of every student, each in a folder of its own but the first; as the last thing, that this step is done. learnt: what is known of a task at its end."""
    assert session.run is not None
    step, training = assembly.step, assembly.training
    folder = session.stage_folder(step.name)
    for name, pupil in assembly.pupils.items():
        if name != "student":
            ship_one(session, assembly, pupil, training.best[name], folder / name)
    written = ship_one(session, assembly, assembly.pupils["student"], training.best["student"], folder)
    session.run.finish_stage(
        step.name,
        {
            "epochs": training.epoch,
            "best_epoch": training.best["student"]["epoch"],
            "steps": training.step,
            **({"seconds": session.clock.step.spent_s(), "out_of_time": out_of_time} if session.clock.limit_s is not None else {}),
            "sha256": written.sha256,
            **written.metrics,
            **(learnt or {}),
        },
    )


def ship_one(session: Session, assembly: Assembly, pupil: Obtained, best: Mapping[str, Any], folder: Path) -> Record:
    """A student's weights and its record, which it returns."""
    step = assembly.step
    teacher = assembly.teacher.weights_mark if assembly.teacher is not None else None
    record = replace(
        first_record(session, assembly.bundle, pupil, step.role, step.name),
        metrics=best["metrics"],
        epoch=best["epoch"],
        epochs=chosen(step.budget.epochs),
        parents=Parents(teacher=teacher, start=pupil.record.sha256 if pupil.record else None),
    )
    folder.mkdir(exist_ok=True)
    weights = best["weights"]
    if step.for_int8:
        weights, ranges = parted(weights, pupil.net.module)
        write_quantizers(folder, ranges)
    return ship_net(folder, step.role, weights, record, pupil.net, pupil.inputs)


def ship_net(folder: Path, role: str, weights: Mapping[str, Any], record: Record, net: Net, inputs: Contract) -> Record:
    """A net's weights and its record, with the script that loads them and the files that its inputs ask for. inputs: as the net sees them."""
    return ship(folder, role, weights, record, load_script(net, role, record, inputs.script()), inputs.beside(net, role, weights))


def ship_given(session: Session, plan: Plan, row: Row, measured: Mapping[str, Any]) -> str:
    """A student as the config gives it, for a run that made none better: a copy in a folder of the row's name. Returns where, in the run's folder."""
    assert isinstance(row.model, Given)
    assert session.run is not None
    bundle = session.bundle(plan.test)
    given = obtain(row.model.model, bundle.inputs, row.role, session.config.seed)
    metrics = {key: measured[key] for key in on_validation() if measured.get(key) is not None}
    record = replace(first_record(session, bundle, given, row.role, row.name), metrics=metrics)
    ship_net(session.run.stage(row.name), row.role, given.classifier.plain_state(), record, given.net, given.inputs)
    return f"{row.name}/{row.role}.safetensors"


def first_record(session: Session, bundle: Bundle, model: Obtained, role: str, stage: str) -> Record:
    """What is known of a model before any training of it."""
    net, inputs = model.net, model.inputs
    return Record(
        role=role,
        stage=stage,
        architecture=Architecture(net.source, net.name, net.stem, net.args, net.edits, inputs.size),
        classes=inputs.classes,
        preprocessing=inputs.record(),
        dataset=bundle.record(),
        metrics={},
        epoch=0,
        epochs=0,
        seed=session.config.seed,
        parents=Parents(teacher=None, start=model.record.sha256 if model.record else None),
        versions=outputs.versions(),
    )
