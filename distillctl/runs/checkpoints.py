"""The checkpoint of a step that is running: what it says of itself, and how it is taken up again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distillctl import outputs, state
from distillctl.entries import Malformed
from distillctl.errors import CheckpointError, first_line
from distillctl.runs.assemble import Assembly
from distillctl.runs.session import Session, first_on_main
from distillctl.runtime import precision_name

ONLY_BITS = ("world", "threads", "device", "precision", "torch")  # of a description: what may differ, at the price of the last bits


def take_up(session: Session, assembly: Assembly, folder: Path, log: outputs.MetricsLog) -> dict[str, Any]:
    """The newest valid checkpoint of a step, on all ranks alike, and what it says of itself; nothing where there is none."""
    machine, warn, training = session.runtime, session.console.warn, assembly.training
    found = machine.from_main(first_on_main(machine, lambda: state.newest(folder, warn)))
    if found is not None:
        content, before = found
        check_reading(assembly, before, folder)
        warn_of_other_bits(session, before)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about what is refused in the next line
                training.load(content)
            if lacking := [name for name in assembly.pupils if training.epoch and name not in training.best]:
                raise Malformed(f"best.{lacking[0]} is missing")
        except Exception as error:  # whole, so somebody made it like this: there is no end to what may be in it
            raise CheckpointError(f"{folder}: its checkpoint does not fit this model, optimizer or version: {first_line(error)}") from None
    if session.run is not None:  # the other ranks share the file
        log.cut(training.log_size)
    return found[1] if found is not None else {}


def check_reading(assembly: Assembly, before: Mapping[str, Any], folder: Path) -> None:
    """Whether students read samples as they did: by other tokens their weights are worth nothing, and nothing else would tell. Raises CheckpointError."""
    told, now = before.get("reading", {}), reading_of(assembly)
    other = next((name for name, mark in now.items() if isinstance(told, Mapping) and told.get(name, mark) != mark), None)
    if other is not None:
        raise CheckpointError(
            f"{folder}: {other} was learning with another tokenizer than it has now; put that back as it was, or start a new run"
        )


def reading_of(assembly: Assembly) -> dict[str, str]:
    """By students: the marks of how they read, of those that have a way of their own."""
    return {name: mark for name, pupil in assembly.pupils.items() if (mark := pupil.inputs.reading_mark())}


def warn_of_other_bits(session: Session, before: Mapping[str, Any]) -> None:
    """Say what differs from the machine that a checkpoint describes, by which it was written."""
    now = machine_in_words(session)
    for name in ONLY_BITS:
        if before.get(name) != now[name]:
            session.console.warn(f"{name} was {before.get(name)} and is {now[name]}: going on, but not bit for bit")


def save(session: Session, assembly: Assembly, folder: Path, log: outputs.MetricsLog) -> None:
    if session.run is not None:
        assembly.training.log_size = log.size()
        state.save(folder, assembly.training.state(), description(session, assembly))


def description(session: Session, assembly: Assembly) -> dict[str, Any]:
    """What a checkpoint says of itself, for people and for the checks when it is taken up."""
    training = assembly.training
    return {
        "stage": assembly.step.name,
        "epoch": training.epoch,
        "step": training.step,
        "data": assembly.bundle.data.fingerprint,
        **({"reading": reading} if (reading := reading_of(assembly)) else {}),
        "spent_s": session.clock.step.spent_s(),
        "allotted_s": session.clock.step.allotted_s,
        **machine_in_words(session),
    }


def machine_in_words(session: Session) -> dict[str, Any]:
    """Where, by how many and by what it is computed."""
    machine = session.runtime
    return {
        "world": machine.world,
        "threads": torch.get_num_threads() if machine.device.type == "cpu" else None,
        "device": machine.device.type,
        "precision": precision_name(machine.precision),
        "torch": torch.__version__,
        "versions": outputs.versions(),
    }
