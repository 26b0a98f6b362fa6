"""Whether and where a stage keeps its teacher's answers: what decides them, what it will cost, and whether it pays."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillctl.build import find_class
from distillctl.config import CacheConfig
from distillctl.data.loader import TrainLoader
from distillctl.errors import ConfigError, DataError, MachineError
from distillctl.losses.weighted import build_loss
from distillctl.methods.method import Method
from distillctl.models.taps import LOGITS, STAGES
from distillctl.paths import cache_folder
from distillctl.report.console import in_bytes, in_time
from distillctl.runs.bundle import Bundle
from distillctl.runs.keys import deciding_parts
from distillctl.runs.lengths import length
from distillctl.runs.session import Session, first_on_main
from distillctl.runs.steps import Step, reads
from distillctl.teachers.answers.known import FromFile
from distillctl.teachers.cached import Cached, features_of
from distillctl.teachers.caches import nearest
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout, layout_for
from distillctl.teachers.store import SPARE, WAY_OUT, Store, folder_of, open_store, record_bytes
from distillctl.types import dtypes_of

MAPS = (*(f"stage{number + 1}" for number in range(STAGES)), "last")  # short names of what is a map, or tokens, in any net
MORE_ROOM = "free some space, set teacher.cache.dir, or keep fewer: dataset.views or teacher.cache.top_k"
FILL = "fill it with distillctl cache action=fill and these words"


@dataclass(frozen=True)
class Keepable:
    """What would be kept of a teacher's answers. like: the features that are read, as `features_read` gives them; layout: of a record;
    dtypes: of the inputs that views have.

    obstacle: why kept answers would not do, if so; price: what would make them do, and what it would take.
    """

    like: dict[str, Tensor]
    layout: Layout
    dtypes: tuple[torch.dtype, ...]
    obstacle: str | None
    price: str


def kept(session: Session, bundle: Bundle, step: Step, teacher: Frozen, batches: TrainLoader) -> Frozen:
    """A teacher whose answers are kept, where that is asked for and can be; else as it is. Says what it will cost."""
    config: CacheConfig = session.config.teacher.cache
    if config.mode == "off" or isinstance(teacher, FromFile) or not step.asks_teacher():
        return teacher
    epochs = length(step, batches, session.config.trainer).epochs
    if config.mode == "auto" and not pays(batches, epochs, shared=is_shared(session.config, step)):
        return teacher
    strict, rows = config.mode == "require", len(batches.split)
    found = keepable(session, bundle, step, teacher)
    if found.obstacle:
        if strict:
            raise ConfigError(refusal(found.obstacle))
        session.console.say(f"teacher: asked at every step, as {found.obstacle}{found.price}")
        return teacher
    parts = deciding_parts(session, bundle, teacher, batches, found.layout)
    if found.layout.features and not strict:
        session.console.say(room_of_features(found.layout, rows, min(epochs, batches.views or epochs)))
    store, lacking = open_answers(session, bundle, epochs, batches, found.layout, parts)
    return Cached(teacher, found.layout, store, batches.split.index, strict, found.like, lacking, found.dtypes)


def keepable(session: Session, bundle: Bundle, step: Step, teacher: Frozen) -> Keepable:
    """What a step would keep of its teacher's answers."""
    keeps = session.config.teacher.cache.features
    like = features_read(bundle, teacher, step.taps("teacher"))
    layout = layout_of(session, bundle, teacher, like)
    lost = unkept(dict(layout.features), keeps if bundle.inputs.steady else "vectors")
    price = price_of(layout, len(bundle.data.train)) if lost and bundle.inputs.steady else ""
    return Keepable(like, layout, dtypes_of(bundle.few(1).inputs), obstacle(step.method, lost, keeps, bundle.inputs.steady), price)


def summary(teacher: Frozen | None) -> str:
    """How often the teacher was asked in this process; empty where nothing is kept."""
    if not isinstance(teacher, Cached):
        return ""
    return f"  teacher: {teacher.read:,} answers were read, {teacher.asked:,} asked for"


def is_shared(config: Any, step: Step) -> bool:
    """Whether other runs ask this teacher about these views. One that this run trains on the way is its own, whatever `shared` says."""
    return step.data.view_seed is not None or config.teacher.cache.shared and step.shares_teacher


def pays(batches: TrainLoader, epochs: int, shared: bool) -> bool:
    """Whether any view comes again: in this stage, or in other runs whose views are these."""
    return shared or (batches.views is not None and batches.views < epochs)


def obstacle(method: Mapping[str, Any] | None, lost: Sequence[str], features: str, steady: bool = True) -> str | None:
    """Why kept answers would not do; `lost` are features that are read, and that `teacher.cache.features` leaves out. steady: samples are of one shape."""
    if method and not find_class(method, Method, "method").asks_of_views:
        return "the method asks it about other images than the views"
    if lost and not steady:
        return f"features of every token are read ({', '.join(lost)}), of which texts have different numbers"
    if lost:
        kind = "features" if features == "none" else "feature maps"
        return f"its {kind} are read ({', '.join(lost)}), and teacher.cache.features={features} keeps none of them"
    return None


def features_read(bundle: Bundle, teacher: Frozen, taps: Sequence[str]) -> dict[str, Tensor]:
    """What a teacher answers besides logits, [2, ...] each, to two training samples: names, order and shapes are those of any answer.

    Empty, and nothing is asked, where no tap is read.
    """
    if not features_among(taps):
        return {}
    return features_of(teacher, teacher(bundle.few(2)))


def layout_of(session: Session, bundle: Bundle, teacher: Frozen, like: Mapping[str, Tensor]) -> Layout:
    """What a record of a teacher's answer holds; `like` as `features_read` gives it."""
    cache: CacheConfig = session.config.teacher.cache
    members = len(teacher.model.names) if isinstance(teacher, Ensemble) else 1
    shapes = {name: tuple(feature.shape[1:]) for name, feature in like.items()}
    return layout_for(members, len(bundle.inputs.classes), cache.dtype, cache.top_k, shapes)


def features_among(taps: Sequence[str]) -> list[str]:
    """Those that are not logits, of one teacher or of a member."""
    return [name for name in taps if name.rpartition(".")[2] != LOGITS]


def unkept(shapes: Mapping[str, tuple[int, ...]], features: str) -> list[str]:
    """The features, shapes of one image by name, that `teacher.cache.features` leaves out."""
    if features == "all":
        return []
    return [name for name, shape in shapes.items() if features == "none" or len(shape) > 1]


def refusal(reason: str) -> str:
    """For teacher.cache.mode=require."""
    features = "teacher.cache.features=all, or " if "teacher.cache.features=" in reason else ""
    return f"teacher.cache.mode=require: {reason}; set {features}teacher.cache.mode=off"


def price_of(layout: Layout, rows: int) -> str:
    """Which key would keep all features of a layout, and what they would take."""
    enough = "all" if unkept(dict(layout.features), "vectors") else "vectors"
    return f"; teacher.cache.features={enough} would, in {in_bytes(rows * record_bytes(layout))} a view"


def room_of_features(layout: Layout, rows: int, views: int) -> str:
    """What records take, and what of it features do."""
    named = ", ".join(f"{name} {list(shape)}" for name, shape in layout.features)
    view = rows * record_bytes(layout)
    return (
        f"teacher: a record has {record_bytes(layout):,} bytes, {layout.feature_bytes:,} of them features ({named}); "
        f"{in_bytes(view)} a view, {in_bytes(views * view)} in all"
    )


def check_can_keep(config: Any) -> None:
    """Whether what `require` asks for can be had at all; raises ConfigError."""
    if config.teacher.cache.mode != "require":
        return
    taps, features = (*build_loss(config.loss).taps("teacher"), *reads(config.method, "teacher")), config.teacher.cache.features
    read = dict.fromkeys(features_among(taps))
    # without the net no shapes are known: those of other taps are looked at once it is there
    lost = [name for name in read if features == "none" or features == "vectors" and name.rpartition(".")[2] in MAPS]
    if reason := obstacle(config.method, lost, features):
        raise ConfigError(refusal(reason))


def open_answers(
    session: Session, bundle: Bundle, epochs: int, batches: TrainLoader, layout: Layout, parts: dict[str, Any]
) -> tuple[Store | None, int]:
    """The store, looked at and announced, and how many answers it lacks. None where there is no place for one and none was demanded."""
    config: CacheConfig = session.config.teacher.cache
    root, warn = cache_folder(config.dir), session.console.warn
    strict = config.mode == "require"
    store = on_all_ranks(session, lambda: open_store(root, parts, layout, len(batches.split), warn, not strict, config.trust_group))
    if isinstance(store, MachineError):
        if config.mode in ("fill", "require"):
            raise store
        warn(f"{store}; the teacher is asked at every step")
        return None, 0
    if strict:
        first_on_main(session.runtime, lambda: check_complete(store, root, parts, batches, epochs))
        session.console.say(f"teacher: all answers are read from {store.folder}")
        return store, 0
    lacking = first_on_main(session.runtime, lambda: announce_need(session, bundle, store, batches, epochs, config.mode == "fill"))
    return store, lacking or 0


def on_all_ranks(session: Session, make: Callable[[], Store]) -> Store | MachineError:
    """What each rank makes for itself, or where one of them cannot, why, so that none waits for the others."""
    result: Store | MachineError
    try:
        result = make()
    except MachineError as error:
        result = error
    if session.runtime.highest(int(isinstance(result, MachineError))) and isinstance(result, Store):
        return MachineError(f"{result.folder}: another process of this run cannot use it; {WAY_OUT}")
    return result


def announce_need(session: Session, bundle: Bundle, store: Store, batches: TrainLoader, epochs: int, demanded: bool) -> int:
    """How many answers the stage will need, keep and find, and the room they take; returns how many are lacking.

    Raises MachineError where a demanded cache has no room.
    """
    views = min(epochs, batches.views or epochs)
    there = lacking = 0
    for view in range(views):
        begun = store.begun(view)
        there, lacking = there + int(begun.sum()), lacking + int((rows_read(batches, epochs, view) & ~begun).sum())
    if not store.writes:
        readonly = f"{store.folder}: can be read and not written, and {lacking:,} of its answers are lacking"
        if demanded and lacking:
            raise MachineError(f"{readonly}; {WAY_OUT}")
        session.console.warn(f"{readonly}; what is not there is asked for at every step" if lacking else readonly)
    elif problem := no_room(store.folder, lacking * store.size * 4, shutil.disk_usage(store.folder).free):
        if demanded:
            raise MachineError(f"{problem}; {MORE_ROOM}")
        session.console.warn(f"{problem}; what does not fit is asked for again")
    session.console.say(
        f"teacher: its answers to {views} view{'s' * (views > 1)} x {store.rows:,} {bundle.inputs.noun} are kept, {in_bytes(views * store.view_bytes)} in {store.folder}; "
        f"{there:,} are there and {lacking:,} to be asked for, where every step would ask for {asked_live(batches, epochs):,}"
    )
    return lacking


def rows_read(batches: TrainLoader, epochs: int, view: int) -> np.ndarray:
    """bool [rows]: whose answers a stage reads of a view; what an epoch leaves over is not among them, unless another has it."""
    rows = np.zeros(len(batches.split), np.bool_)
    for epoch in range(view, epochs, batches.views or epochs):
        rows[batches.order(epoch)[: batches.samples_per_epoch].numpy()] = True
    return rows


def asked_live(batches: TrainLoader, epochs: int) -> int:
    """How many answers a stage takes in all."""
    return epochs * batches.samples_per_epoch


def no_room(place: Path, wanted: int, free: int) -> str | None:
    """What is wrong where so many bytes do not fit on a disk."""
    if wanted + SPARE <= free:
        return None
    return (
        f"{place}: {in_bytes(free)} free, of which {in_bytes(SPARE)} are for others, and the teacher's answers need {in_bytes(wanted)} more"
    )


def check_complete(store: Store, root: Path, parts: dict[str, Any], batches: TrainLoader, epochs: int) -> None:
    """Raises DataError, before any training, where an answer that this stage will read is missing."""
    if not folder_of(root, parts).is_dir():
        differs = nearest(root, parts)
        why = f"the one most like it differs in {', '.join(differs)}" if differs else "there is none yet"
        raise DataError(f"teacher.cache.mode=require: {root} has no answers of this teacher to these views: {why}; {FILL}")
    missing = total = 0
    for view in range(min(epochs, batches.views or epochs)):
        rows = rows_read(batches, epochs, view)
        total, missing = total + int(rows.sum()), missing + int((rows & ~store.inspected(view)[0]).sum())
    if missing:
        raise DataError(
            f"teacher.cache.mode=require: {store.folder} lacks {missing:,} of the {total:,} answers that this stage reads; {FILL}"
        )


def time_saved(teacher: Frozen, batches: TrainLoader, epochs: int, seconds_per_sample: float) -> str:
    """What is left of the teacher's time in a step, in words; empty where nothing is kept here."""
    if not isinstance(teacher, Cached) or teacher.store is None or teacher.strict:
        return ""
    counts = teacher.lacking, asked_live(batches, epochs)
    kept, live = (in_time(count * seconds_per_sample / batches.place.world) for count in counts)
    return f"teacher: about {kept} for the answers to be asked for, where every step would take {live}"
