"""Write what a finished stage trained, for the world: weights, their record, a script that loads them; and that it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillctl import outputs
from distillctl.loop import Training
from distillctl.models.obtain import Obtained
from distillctl.models.record import Architecture, Parents, Record
from distillctl.models.script import load_script
from distillctl.models.shipping import ship
from distillctl.runs.plan import Task
from distillctl.runs.session import Session


def ship_stage(session: Session, task: Task, training: Training, pupils: Mapping[str, Obtained]) -> None:
    """The best weights of every student, each in a folder of its own but the first; as the last thing, that this stage is done."""
    assert session.run is not None
    folder = session.stage_folder(task.name)
    for name in pupils:
        if name != "student":
            ship_one(session, task, pupils[name], training.best[name], folder / name)
    written = ship_one(session, task, pupils["student"], training.best["student"], folder)
    session.run.finish_stage(
        task.name,
        {
            "epochs": training.epoch,
            "best_epoch": training.best["student"]["epoch"],
            "steps": training.step,
            "sha256": written.sha256,
            **written.metrics,
        },
    )


def ship_one(session: Session, task: Task, pupil: Obtained, best: Mapping[str, Any], folder: Path) -> Record:
    """A student's weights and its record, which it returns."""
    data, net, classifier = session.data, pupil.net, pupil.classifier
    size = classifier.resolution or data.image_size
    record = Record(
        role=task.role,
        stage=task.name,
        architecture=Architecture(net.source, net.name, net.stem, net.args, net.edits, size),
        classes=tuple(data.classes),
        preprocessing={
            "image_size": size,
            "resize": round(size / 0.875) if isinstance(data.test.images, list) else size,
            "mean": [float(value) for value in classifier.mean.flatten()],
            "std": [float(value) for value in classifier.std.flatten()],
        },
        dataset=dataset_record(session),
        metrics=best["metrics"],
        epoch=best["epoch"],
        epochs=task.budget.epochs,
        seed=session.config.seed,
        parents=Parents(
            teacher=task.teacher.weights_mark if task.teacher is not None else None,
            start=pupil.record.sha256 if pupil.record else None,
        ),
        versions=outputs.versions(),
    )
    folder.mkdir(exist_ok=True)
    return ship(folder, task.role, best["weights"], record, load_script(net, task.role, record))


def dataset_record(session: Session) -> dict[str, Any]:
    """The data set's config, so that evaluate finds the same images again."""
    content = asdict(session.config.dataset)
    root = content["root"]
    return content | {"root": str(Path(root).resolve()) if root else None, "fingerprint": session.data.fingerprint}
