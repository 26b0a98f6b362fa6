"""Write what a finished stage trained, for the world: weights, their record, a script that loads them; and that it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillctl import outputs
from distillctl.models.obtain import Obtained
from distillctl.models.record import Architecture, Parents, Record
from distillctl.models.script import load_script
from distillctl.models.shipping import ship
from distillctl.runs.assemble import Assembly
from distillctl.runs.session import Session


def ship_step(session: Session, assembly: Assembly) -> None:
    """The best weights of every student, each in a folder of its own but the first; as the last thing, that this step is done."""
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
            "sha256": written.sha256,
            **written.metrics,
        },
    )


def ship_one(session: Session, assembly: Assembly, pupil: Obtained, best: Mapping[str, Any], folder: Path) -> Record:
    """A student's weights and its record, which it returns."""
    step, net, inputs = assembly.step, pupil.net, pupil.inputs
    record = Record(
        role=step.role,
        stage=step.name,
        architecture=Architecture(net.source, net.name, net.stem, net.args, net.edits, inputs.size),
        classes=inputs.classes,
        preprocessing=inputs.record(),
        dataset=assembly.bundle.record(),
        metrics=best["metrics"],
        epoch=best["epoch"],
        epochs=step.budget.epochs,
        seed=session.config.seed,
        parents=Parents(
            teacher=assembly.teacher.weights_mark if assembly.teacher is not None else None,
            start=pupil.record.sha256 if pupil.record else None,
        ),
        versions=outputs.versions(),
    )
    folder.mkdir(exist_ok=True)
    return ship(folder, step.role, best["weights"], record, load_script(net, step.role, record, inputs.script()))
