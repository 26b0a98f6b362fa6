"""Whether and where a stage keeps its teacher's answers: what decides them, what it will cost, and whether it pays."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from distillctl import outputs
from distillctl.build import find_class
from distillctl.config import CacheConfig
from distillctl.data.augment import VIEW_SCHEME
from distillctl.data.loader import TrainLoader
from distillctl.errors import ConfigError, DataError, MachineError
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.models.adapter import Classifier
from distillctl.models.taps import LOGITS
from distillctl.runtime import precision_name
from distillctl.scenarios.session import Session, first_on_main
from distillctl.scenarios.task import Task, reads
from distillctl.teachers.cached import Cached
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.teachers.records import Layout, layout_for
from distillctl.teachers.store import FORMAT_VERSION, Store, folder_of, nearest, open_store

DECIDING_VERSIONS = ("distillctl", "torch", "torchvision", "timm")
SPARE = 64 * 2**20  # bytes of the disk that records leave free
FILL = "fill it with teacher.cache.mode=fill"


def with_cache(session: Session, task: Task, batches: TrainLoader) -> Task:
    """The task with a teacher whose answers are kept, where that is asked for and can be. Says what it will cost."""
    config: CacheConfig | None = getattr(getattr(session.config, "teacher", None), "cache", None)
    if task.teacher is None or config is None or config.mode == "off":
        return task
    if config.mode == "auto" and not pays(batches, task.budget.epochs, shared=session.config.dataset.view_seed is not None):
        return task
    if reason := obstacle(task.taps("teacher"), task.method):
        session.console.say(f"teacher: asked at every step, as {reason}")
        return task
    members = len(task.teacher.model.names) if isinstance(task.teacher, Ensemble) else 1
    layout = layout_for(members, len(session.images.classes), config.dtype, config.top_k)
    parts = parts_of(session, task.teacher, batches, layout)
    store = opened(session, task, batches, layout, parts)
    return replace(task, teacher=Cached(task.teacher, layout, store, batches.split.index, strict=config.mode == "require"))


def summary(task: Task) -> str:
    """How often the teacher was asked in this process; empty where nothing is kept."""
    teacher = task.teacher
    if not isinstance(teacher, Cached):
        return ""
    return f"  teacher: {teacher.read:,} answers were read, {teacher.asked:,} asked for"


def pays(batches: TrainLoader, epochs: int, shared: bool) -> bool:
    """Whether any view comes again: in this stage, or in other runs whose views are these."""
    return shared or (batches.views is not None and batches.views < epochs)


def obstacle(taps: Sequence[str], method: Mapping[str, Any] | None) -> str | None:
    """Why logits alone would not do."""
    features = [name for name in taps if name.rpartition(".")[2] != LOGITS]
    if features:
        return f"its features are read ({', '.join(features)}), and only logits are kept"
    if method and not find_class(method, Method, "method").asks_of_views:
        return "the method asks it about other images than the views"
    return None


def check(config: Any) -> None:
    """Whether what `require` asks for can be had at all; raises ConfigError."""
    if config.teacher.cache.mode != "require":
        return
    taps = (*build_loss(config.loss).taps("teacher"), *reads(config.method, "teacher"))
    if reason := obstacle(taps, config.method):
        raise ConfigError(f"teacher.cache.mode=require: {reason}; set teacher.cache.mode=off")


def root_of(folder: str | None) -> Path:
    """Where caches are: the key, or $DISTILLCTL_CACHE, or beside the runs."""
    return Path(folder or os.environ.get("DISTILLCTL_CACHE") or "outputs/.cache")


def parts_of(session: Session, teacher: Frozen, batches: TrainLoader, layout: Layout) -> dict[str, Any]:
    """Everything that decides an answer, by names that a person understands. Whatever is not here must not matter."""
    augment, versions = batches.augment, outputs.versions()
    return {
        "format": f"{FORMAT_VERSION}, {sys.byteorder} endian",
        "teacher": teacher.name,
        "weights": fingerprint(teacher.model),
        "architecture": digest(re.sub(r" at 0x[0-9a-f]+", "", repr(teacher.model))),
        "preprocessing": digest(preprocessing(teacher.model)),
        "precision": precision_name(teacher.precision),
        "device": teacher.device.type,
        "channels_last": session.config.trainer.channels_last,
        "data_set": session.data.name,
        "data": session.data.fingerprint,
        "split": "train",
        "samples": len(batches.split),
        "augment": asdict(augment.config),
        "image_size": augment.image_size,
        "view_scheme": VIEW_SCHEME,
        "view_seed": augment.seed,
        "teachers": layout.teachers,
        "classes": layout.classes,
        "dtype": layout.dtype,
        "top_k": layout.top_k,
        "versions": {name: versions[name] for name in DECIDING_VERSIONS},
    }


def preprocessing(model: nn.Module) -> list[Any]:
    """What a state dict does not hold: means, deviations, orders of classes, the resolutions that nets see."""
    kept = model.state_dict()
    buffers = [[name, value.flatten().tolist()] for name, value in model.named_buffers() if name not in kept]
    return [buffers, [[name, part.resolution] for name, part in model.named_modules() if isinstance(part, Classifier)]]


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def opened(session: Session, task: Task, batches: TrainLoader, layout: Layout, parts: dict[str, Any]) -> Store | None:
    """The store, looked at and announced. None where there is no place for one and none was demanded."""
    config: CacheConfig = session.config.teacher.cache
    root, warn = root_of(config.dir), session.console.warn
    strict = config.mode == "require"
    try:
        store = open_store(root, parts, layout, len(batches.split), warn, writes=not strict)
    except MachineError as error:
        if config.mode == "fill":
            raise
        warn(f"{error}; the teacher is asked at every step")
        return None
    if strict:
        first_on_main(session.runtime, lambda: check_complete(store, root, parts, batches, task.budget.epochs))
        session.console.say(f"teacher: all answers are read from {store.folder}")
    else:
        first_on_main(session.runtime, lambda: announce(session, store, batches, task.budget.epochs, config.mode == "fill"))
    return store


def announce(session: Session, store: Store, batches: TrainLoader, epochs: int, demanded: bool) -> None:
    """How many answers the stage will need, keep and find, and the room they take. Raises MachineError where a demanded cache has none."""
    views = min(epochs, batches.views or epochs)
    needed, there = views * store.rows, sum(store.filled(view) for view in range(views))
    lacking, free = (needed - there) * store.size * 4, shutil.disk_usage(store.folder).free
    if lacking > free - SPARE:
        room = f"{store.folder}: {free / 2**20:,.0f} MiB free, and the teacher's answers need {lacking / 2**20:,.0f} more"
        if demanded:
            raise MachineError(f"{room}; free some space, set teacher.cache.dir, or keep fewer: dataset.views or teacher.cache.top_k")
        session.console.warn(f"{room}; what does not fit is asked for again")
    seen = epochs * batches.batches_per_epoch * batches.batch_size
    session.console.say(
        f"teacher: its answers to {views} view{'s' * (views > 1)} x {store.rows:,} images are kept, {size(needed * store.size * 4)} in {store.folder}; "
        f"{there:,} are there and {needed - there:,} to be asked for, where every step would ask for {seen:,}"
    )


def check_complete(store: Store, root: Path, parts: dict[str, Any], batches: TrainLoader, epochs: int) -> None:
    """Raises DataError, before any training, where an answer that this stage will read is missing."""
    if not folder_of(root, parts).is_dir():
        differs = nearest(root, parts)
        why = f"the one most like it differs in {', '.join(differs)}" if differs else "there is none yet"
        raise DataError(f"teacher.cache.mode=require: {root} has no answers of this teacher to these views: {why}; {FILL}")
    missing = 0
    needed: dict[int, np.ndarray] = {}
    for epoch in range(epochs):
        rows = needed.setdefault(batches.view_of(epoch), np.zeros(store.rows, np.bool_))
        rows[batches.order(epoch)[: batches.batches_per_epoch * batches.batch_size].numpy()] = True
    for view, rows in needed.items():
        missing += int((rows & ~store.inspected(view)[0]).sum())
    if missing:
        total = sum(int(rows.sum()) for rows in needed.values())
        raise DataError(
            f"teacher.cache.mode=require: {store.folder} lacks {missing:,} of the {total:,} answers that this stage reads; {FILL}"
        )


def size(count: float) -> str:
    """Bytes for people."""
    unit, name = next((2**power, name) for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if count >= 2**power or power == 10)
    return f"{count / unit:,.1f} {name}"
