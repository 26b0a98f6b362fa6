"""A teacher that was trained on this machine already is found by a key of all that decides its weights, and not trained again.

`<cache folder>/teachers/<key>.json` names the files of a finished stage, their checksums and the run that made them. Of jobs side
by side one holds `<key>.lock` and trains; the others wait for it, and take what it has made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as safetensors_load

from distillctl import outputs, state
from distillctl.config import ModelConfig, values_that_decide
from distillctl.errors import CheckpointError, MachineError
from distillctl.files import check_owner, open_folder, parse_json
from distillctl.locks import lock_file, open_lock
from distillctl.models.fitting import load_weights
from distillctl.models.obtain import planned, source_of
from distillctl.models.record import Architecture, Record
from distillctl.models.shipping import checksum
from distillctl.paths import cache_folder
from distillctl.runs.keys import DECIDING_VERSIONS
from distillctl.runs.registry import FOLDER, LOG, Trained, files_of, is_free, look_up
from distillctl.runs.session import Session, first_on_main
from distillctl.runs.ship import ship_net
from distillctl.runs.sources import Given
from distillctl.runs.steps import Step
from distillctl.runs.train import train
from distillctl.runtime import precision_name
from distillctl.trust import PACKAGES, within

FORMAT_VERSION = 1
POLL_S = 0.2
OF_WEIGHTS = ("answers", "weights")  # what a key decides that decides weights; what is computed where has words of its own in the key


def train_once(session: Session, step: Step) -> Path:
    """`train` for a teacher, or the files of the same training before, copied; the step is finished either way."""
    if session.stage_record(step.name) is not None or is_its_own(session, step):
        return train(session, step)
    key = key_of(session, step)
    entry = cache_folder() / FOLDER / f"{key}.json"
    if reused(session, step, entry):
        return session.stage_folder(step.name) / f"{step.role}.safetensors"
    with hold_entry(session, entry.with_suffix(".lock")) as registers:
        if registers and reused(session, step, entry):
            return session.stage_folder(step.name) / f"{step.role}.safetensors"
        registers = registers and is_free(entry)
        if session.run is not None and registers:
            with contextlib.suppress(OSError):
                entry.unlink()  # it names what is gone or changed
        whole = begin(session, step, key)
        file = train(session, step)
        if whole and registers:
            register(session, step, entry, file)
    return file


def key_of(session: Session, step: Step, world: int | None = None, threads: int | None = None) -> str:
    """SHA-256 of everything that the shipped weights depend on. Whatever is not here must not matter.

    world, threads: of the run that will have it, where that is not this process.
    """
    assert step.teacher is None, f"{step.name}: what is taught depends on its teacher too"
    config, machine, bundle = session.config, session.runtime, session.bundle_of(step)
    model = model_of(step)
    file, record = source_of(model, step.role)
    versions = outputs.versions()
    on_cpu = machine.device.type == "cpu"
    parts = {
        "format": FORMAT_VERSION,
        "role": step.role,
        "seeds": [config.seed, step.seed],
        "model": {field.name: getattr(model, field.name) for field in fields(ModelConfig) if field.name != "checkpoint"},
        "start": [checksum(file, file.stat().st_mtime_ns, file.stat().st_size), record and record.to_json()] if file is not None else None,
        "dataset": values_that_decide(step.data, *OF_WEIGHTS),
        "data": bundle.data.fingerprint,
        "inputs": {part.name: getattr(bundle.inputs, part.name) for part in fields(bundle.inputs) if part.compare},
        "outside": bundle.inputs.outside(model, step.role),
        "loss": step.loss,
        "method": step.method,
        "optimizer": config.optimizer,
        "schedule": config.schedule,
        "budget": values_that_decide(step.budget, *OF_WEIGHTS),
        "trainer": values_that_decide(config.trainer, *OF_WEIGHTS) | {"precision": precision_name(machine.precision)},
        "device": machine.device.type,
        "processor": torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(machine.device),
        "world": world or machine.world,
        "threads": (threads or torch.get_num_threads()) if on_cpu else None,
        "versions": {name: versions[name] for name in DECIDING_VERSIONS},
        "sources": outputs.sources(Path(outputs.__file__).parent),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def is_its_own(session: Session, step: Step) -> bool:
    """Whether nobody can tell that another training is the same."""
    outside = session.bundle_of(step).inputs.outside(model_of(step), step.role)
    return outside is None or has_own_code(step, session.config)


def has_own_code(step: Step, config: Any) -> bool:
    """Whether classes of the user's own take part: they change, and nothing tells."""
    model = model_of(step)
    record = source_of(model, step.role)[1]
    if model.source == "own" or (record is not None and record.architecture.source == "own"):
        return True
    return any(not within(path, PACKAGES) for path in targets([config.optimizer, config.schedule, step.loss, step.method]))


def model_of(step: Step) -> ModelConfig:
    assert isinstance(step.model, Given), step.model
    return step.model.model


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` in a component's config."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from targets(item)


def reused(session: Session, step: Step, entry: Path) -> bool:
    """Take the files that `entry` names into this run, if all of them are as they were. The same answer on every rank."""
    return bool(session.runtime.from_main(first_on_main(session.runtime, lambda: copy_files(session, step, entry))))


def copy_files(session: Session, step: Step, entry: Path) -> bool:
    """Rank 0's part of `reused`."""
    found = look_up(entry, step.role, session.config.teacher.cache.trust_group, session.console.warn)
    if found is None or session.run is None:
        return False
    folder = session.run.stage(step.name)
    try:
        write_files(session, step, found, folder)
    except CheckpointError as error:
        session.console.warn(f"{entry}: is not used ({error})")
        return False
    session.run.finish_stage(step.name, {**found.stage, "reused": found.run})
    accuracy = found.stage.get("val_top1")
    worth = f" (val {accuracy:.1%})" if isinstance(accuracy, float) else ""
    run = Path(found.run)
    shown = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    session.console.say(
        f"{step.name}: the same teacher was trained before{worth}, reused from {shown}; pretrain.reuse=false trains it again"
    )
    return True


def write_files(session: Session, step: Step, found: Trained, folder: Path) -> None:
    """The weights as they were found, and what describes them anew: a folder that is shared may hold anything. Raises CheckpointError.

    The net is the one that this run would train, so the script that loads it is ours.
    """
    bundle, role, model = session.bundle_of(step), step.role, model_of(step)
    try:
        theirs = Record.from_json(parse_json(found.files[f"{role}.json"]))
    except ValueError:
        raise CheckpointError("its record is no JSON that can be read") from None
    net = planned(model, source_of(model, role)[1], bundle.inputs, role)
    inputs = bundle.inputs.seen_by(bundle.inputs.adapt(net))
    architecture = Architecture(net.source, net.name, net.stem, net.args, net.edits, inputs.size)
    if theirs.architecture.to_json() != json.loads(json.dumps(architecture.to_json())):
        raise CheckpointError("its record describes another net")
    record = replace(
        theirs,
        role=role,
        stage=step.name,
        architecture=architecture,
        classes=inputs.classes,
        preprocessing=inputs.record(),
        dataset=bundle.record(),
    )
    try:
        weights = safetensors_load(found.files[f"{role}.safetensors"])
    except Exception:  # as a damaged file can raise anything
        raise CheckpointError("its weights are no safetensors") from None
    load_weights(net.module, weights, role, found.run, name=net.name)
    if LOG in found.files:
        state.write_atomically(folder / LOG, [found.files[LOG]])
    ship_net(folder, role, weights, record, net, inputs)


@contextlib.contextmanager
def hold_entry(session: Session, path: Path) -> Iterator[bool]:
    """Hold a lock, waiting for whoever has it. False where there can be none: then nothing is registered.

    Ranks poll together, so that none of them waits longer in a collective than it may. Raises Interrupted when asked to stop.
    """
    machine, said = session.runtime, False
    lock = open_entry_lock(session, path) if session.run is not None else None
    try:
        while not machine.from_main(lock is None or locked_or_alone(lock)):
            if not said:
                session.console.say("waiting for the job that trains this teacher")
                said = True
            if machine.highest(int(session.stop())):
                raise session.interrupted()
            time.sleep(POLL_S)
        yield machine.from_main(lock is not None)
    finally:
        if lock is not None:
            lock.close()


def open_entry_lock(session: Session, path: Path) -> FileIO | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = open_folder(path.parent, links=False)
        try:
            lock = open_lock(path.name, place)
        finally:
            os.close(place)
        check_owner(os.fstat(lock.fileno()), session.config.teacher.cache.trust_group)  # a stranger's may be held for ever
        return lock
    except OSError as error:
        session.console.warn(f"{path.parent}: {error.strerror}; other runs will not find this teacher")
        return None


def locked_or_alone(lock: FileIO) -> bool:
    try:
        return lock_file(lock)
    except OSError:  # a file system without locks: train beside the others
        return True


def begin(session: Session, step: Step, key: str) -> bool:
    """Note this attempt. False where an earlier one had another key (threads, device): such weights are nobody else's."""
    if session.run is None:
        return False
    folder = session.stage_folder(step.name)
    started = any((folder / name).exists() for name in (state.NEWEST, state.BEFORE))
    attempts: list[str] = session.run.record.setdefault("keys", {}).setdefault(step.name, [])
    known = bool(attempts) or not started
    attempts += [key] if key not in attempts else []
    session.run.write()
    return known and attempts == [key]


def register(session: Session, step: Step, entry: Path, file: Path) -> None:
    """Write down what the stage has made; what fails here costs other runs time, not this one its result."""
    if session.run is None or session.run.record["stages"][step.name].get("out_of_time"):
        return  # how far it came, the clock has decided
    try:
        files = {name: file.with_name(name) for name in files_of(step.role) if file.with_name(name).exists()}
        content = {
            "format_version": FORMAT_VERSION,
            "file": str(file.resolve()),
            "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
            "run": str(session.folder.resolve()),
            "stage": session.run.record["stages"][step.name],
        }
        state.write_json(entry, state.finite(content), links=False)
    except (OSError, MachineError) as error:
        session.console.warn(f"{entry.parent}: {error}; other runs will not find this teacher")
