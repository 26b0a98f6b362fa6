"""Ask a teacher about every view that is missing, before any training; and say beforehand what that will cost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distillctl.config import CachesConfig, DatasetConfig, TextSetConfig
from distillctl.data.loader import TrainLoader
from distillctl.errors import ConfigError, DataError, Interrupted, MachineError
from distillctl.interruption import StopRequest
from distillctl.loop import Report
from distillctl.losses.weighted import build_loss
from distillctl.paths import cache_folder
from distillctl.report.console import in_bytes, in_time
from distillctl.runs import keeping, labelling
from distillctl.runs.assemble import teacher_of
from distillctl.runs.batches import check_batches
from distillctl.runs.bundle import Bundle
from distillctl.runs.check import check_settings
from distillctl.runs.keeping import Keepable
from distillctl.runs.keys import deciding_parts
from distillctl.runs.plan import plan
from distillctl.runs.session import Session, first_on_main, session
from distillctl.runtime import precision_name
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.store import WAY_OUT, Store, folder_of, open_store, record_bytes

TIMED = 3  # batches, and at least one of each data worker
GO_ON, STOP, FULL = range(3)


@dataclass(frozen=True)
class Work:
    """A teacher, the views that it is to be asked about, and what is kept of its answers, where."""

    session: Session
    bundle: Bundle
    teacher: Frozen
    answers: Keepable
    parts: Mapping[str, Any]
    batches: TrainLoader
    views: int

    @property
    def rows(self) -> int:
        return len(self.batches.split)

    @property
    def root(self) -> Path:
        return cache_folder(self.session.config.teacher.cache.dir)

    def store(self, writes: bool) -> Store:
        """The records, to look at or to fill; only the latter makes a folder."""
        session = self.session
        trusts = session.config.teacher.cache.trust_group
        return open_store(self.root, self.parts, self.answers.layout, self.rows, session.console.warn, writes, trusts)

    def cached(self, store: Store) -> Cached:
        kept = self.answers
        return Cached(self.teacher, kept.layout, store, self.batches.split.index, like=kept.like, dtypes=kept.dtypes)


@dataclass(frozen=True)
class Lack:
    """What is missing, by view: how many records, and the numbers of the batches that hold them; and the seconds that a batch takes."""

    missing: list[int]
    numbers: list[list[int]]
    seconds_per_batch: float
    timed: int

    @property
    def seconds(self) -> float:
        return self.seconds_per_batch * sum(map(len, self.numbers))


def check_can_fill(config: CachesConfig) -> None:
    """All that can be found without data. Raises ConfigError."""
    if views_of(config) is None:
        raise ConfigError(f"action={config.action}: it is not said how many views; set dataset.views=N as the runs that read them will")
    bank = bank_of(config.dataset)
    if config.views and bank and config.views > bank:
        why = f"dataset.views={bank}" if config.dataset.views else "the one view of texts that are not augmented"
        raise ConfigError(f"views={config.views} is more than {why}: no run would read the others; lower it")
    if config.teacher.cache.mode in ("off", "require"):
        raise ConfigError(
            f"teacher.cache.mode={config.teacher.cache.mode}: nothing may be kept, and action={config.action} is to keep; leave it out"
        )
    check_settings(config)
    if not any(step.asks_teacher() for step in plan(config).todo):
        raise ConfigError(
            f"action={config.action}: no loss reads a teacher here, so there is nothing to keep; choose one that does, as loss=kd"
        )


def views_of(config: CachesConfig) -> int | None:
    return config.views or bank_of(config.dataset)


def bank_of(data: DatasetConfig) -> int | None:
    """How many views epochs take in turn, where that is told."""
    is_as_stored = isinstance(data, TextSetConfig) and not (data.augment.mask or data.augment.drop)
    return 1 if is_as_stored else data.views


def label_rank(config: CachesConfig, folder: Path | None) -> None:
    """The same of a teacher behind an endpoint, whose answers its ledger keeps."""
    with StopRequest() as stop, session(config, None, stop, unasked=True) as running:
        bundle = running.bundle(config.dataset)
        for line in labelling.price(bundle, config.teacher, config.seed):
            running.console.say(line)
        if config.action == "fill":
            labelling.label(bundle, config.teacher, config.seed, running.console, stop)


def fill_rank(config: CachesConfig, folder: Path | None) -> None:
    """Says what it will cost, and with action=fill does it; one process's part."""
    with StopRequest() as stop, session(config, None, stop) as running:
        wanted = prepared(running)
        lack = looked_through(wanted)
        running.console.say(described(wanted, lack))
        if problem := keeping.no_room(wanted.root, sum(lack.missing) * record_bytes(wanted.answers.layout), free_bytes(wanted)):
            raise MachineError(f"{problem}; {keeping.MORE_ROOM}")
        if config.action == "fill":
            fill(wanted, lack)


def prepared(session: Session) -> Work:
    """The teacher and its views as the first step that it teaches has them. Raises ConfigError where its answers cannot be kept."""
    config, views = session.config, views_of(session.config)
    assert views is not None
    todo = plan(config)
    step = next(step for step in todo.todo if step.teacher is not None)
    bundle = session.bundle_of(step)
    check_batches(session, bundle)
    step = todo.ready(step, {})
    teacher = teacher_of(session, bundle, step, build_loss(step.loss))
    assert teacher is not None
    found = keeping.keepable(session, bundle, step, teacher)
    if found.obstacle:
        raise ConfigError(f"action={config.action}: answers of this teacher are not kept, as {found.obstacle}{found.price}")
    if config.trainer.compile:
        teacher.compile()
    if found.layout.features:
        session.console.say(keeping.room_of_features(found.layout, len(bundle.data.train), views))
    batches = bundle.train_batches(step.seed)
    parts = deciding_parts(session, bundle, teacher, batches, found.layout)
    return Work(session, bundle, teacher, found, parts, batches, views)


def looked_through(work: Work) -> Lack:
    """Look at every record, and time the teacher; nothing is written. The same on every rank."""
    machine, store = work.session.runtime, work.store(writes=False)
    missing, numbers = machine.from_main(first_on_main(machine, lambda: survey(work, store)))
    seconds, timed = measured(work, store, numbers)
    return Lack(missing, numbers, seconds, timed)


def survey(work: Work, store: Store) -> tuple[list[int], list[list[int]]]:
    """Of each view: how many records are missing or damaged, and which batches hold one."""
    missing, numbers = [], []
    for view in range(work.views):
        whole = torch.from_numpy(store.inspected(view)[0])
        missing.append(int((~whole).sum()))
        numbers.append([number for number, rows in enumerate(work.batches.covering(view)) if not whole[rows].all()])
    return missing, numbers


def measured(work: Work, store: Store, numbers: list[list[int]]) -> tuple[float, int]:
    """Seconds for a batch, reading included, and how many were timed: after one, or one of each data worker, to warm up."""
    view = next((view for view, found in enumerate(numbers) if found), None)
    if view is None:
        return 0.0, 0
    workers = work.batches.workers
    warm, rows = max(1, workers), work.batches.covering(view)
    chosen = [rows[number] for number in numbers[view][: warm + max(TIMED, workers)]]
    teacher, times = work.cached(store), [time.monotonic()]
    for batch in work.batches.batches(chosen, view):
        teacher(batch)
        times.append(time.monotonic())
        check_goes_on(work.session, store_fails=False)
    first = warm if len(chosen) > warm else 0
    timed = len(chosen) - first
    return work.session.runtime.highest(round(1e6 * (times[-1] - times[first]) / timed)) / 1e6, timed


def described(work: Work, lack: Lack) -> str:
    """What is there and what is lacking, in one line."""
    missing, needed, one = sum(lack.missing), work.views * work.rows, record_bytes(work.answers.layout)
    count = f"{work.views} view{'s' * (work.views > 1)} x {work.rows:,} {work.bundle.inputs.noun}"
    place = f"{in_bytes(needed * one)} in {folder_of(work.root, work.parts)}, where {in_bytes(free_bytes(work))} are free"
    line = f"cache: {count}, {place}; {needed - missing:,} answers are there and {missing:,} to be asked for"
    if not missing:
        return line
    size = work.batches.batch_size
    return (
        f"{line}: {in_bytes(missing * one)} more, about {in_time(lack.seconds)} "
        f"(measured on {lack.timed} batch{'es' * (lack.timed > 1)} of {size}, reading included)"
    )


def free_bytes(work: Work) -> int:
    """On the disk where the answers lie or would."""
    return shutil.disk_usage(next(place for place in (work.root, *work.root.absolute().parents) if place.exists())).free


def fill(work: Work, lack: Lack) -> None:
    """Ask about the batches that lack a record, view after view, and look at what is there then."""
    machine, console = work.session.runtime, work.session.console
    needed, started = work.views * work.rows, time.monotonic()
    if not sum(lack.missing):
        console.say("nothing is missing, so nothing was asked")
        return
    store = work.store(writes=True)
    if not store.writes:
        raise MachineError(f"{store.folder}: can be read and not written; {WAY_OUT}")
    teacher = work.cached(store)
    per_view = len(work.batches.covering(0))
    done = work.views * per_view - sum(map(len, lack.numbers))
    what = f"{work.teacher.name}, {precision_name(machine.precision)} on {machine.name}"
    console.start_stage("fill", what, work.views, per_view, done, unit="view", rate=work.bundle.inputs.rate)
    for view, numbers in enumerate(lack.numbers):
        ask(work, teacher, store, view, numbers)
        if numbers:
            rate, left = teacher.asked * machine.world / (time.monotonic() - started), console.eta(view + 1)
            console.say(
                f"  view {view + 1:>3}/{work.views}  {lack.missing[view]:>9,} asked for {rate:>8,.0f} {work.bundle.inputs.rate}  eta {left}"
            )
    console.end_stage()
    asked = int(machine.gather(torch.tensor([teacher.asked])).sum())
    machine.barrier()
    first_on_main(machine, lambda: check_whole(work, store))
    console.say(
        f"{asked:,} answers asked for in {in_time(time.monotonic() - started)}; all {needed:,} are there, "
        f"{in_bytes(needed * record_bytes(work.answers.layout))} in {store.folder}"
    )


def ask(work: Work, teacher: Cached, store: Store, view: int, numbers: list[int]) -> None:
    """About some batches of one view."""
    rows, started, before = work.batches.covering(view), time.monotonic(), teacher.asked
    batches = work.batches.batches([rows[number] for number in numbers], view)
    for step, (number, batch) in enumerate(zip(numbers, batches, strict=True), start=1):
        teacher(batch)
        check_goes_on(work.session, store_fails=not store.writes)
        rate = (teacher.asked - before) * work.session.runtime.world / (time.monotonic() - started)
        work.session.console.step(Report(view, number + 1, step, {}, 0.0, rate))


def check_goes_on(session: Session, store_fails: bool) -> None:
    """Raises on all ranks alike where one was asked to stop, or can keep no more."""
    wish = session.runtime.highest(FULL if store_fails else STOP if session.stop() else GO_ON)
    if wish == FULL:
        raise MachineError(
            "the teacher's answers can be kept no more; what was written stays: free some space, and the same command goes on"
        )
    if wish == STOP:
        raise Interrupted("interrupted; what was asked for is kept, and the same command goes on", session.stop.signal_number or 15)


def check_whole(work: Work, store: Store) -> None:
    """Raises DataError where a record is missing still: then the answer was no finite number."""
    left = sum(work.rows - int(store.inspected(view)[0].sum()) for view in range(work.views))
    if left:
        way_out = "set teacher.cache.dtype=fp32" if work.answers.layout.dtype == "fp16" else "look at the teacher with distillctl evaluate"
        raise DataError(
            f"{store.folder}: {left:,} answers are no finite numbers in {work.answers.layout.dtype}, and were not kept; {way_out}"
        )
