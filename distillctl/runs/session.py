"""What every command that trains shares: runtime, data, run folder, console; set up and checked before any training."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillctl import outputs, runtime
from distillctl.config import FitConfig
from distillctl.data import sets
from distillctl.data.augment import Augment
from distillctl.data.loader import Place, PlainLoader, ReadOptions, TrainLoader
from distillctl.data.split import Split
from distillctl.errors import ConfigError, DataError, MachineError, UserError
from distillctl.interruption import StopRequest
from distillctl.models.obtain import Images, source_of
from distillctl.ranks import Rank
from distillctl.report.console import Console
from distillctl.report.trackers import Tracker, make_tracker
from distillctl.types import Batch

LEAST_FREE_MIB = 64


@dataclass
class Session:
    """One process's part in one run."""

    config: Any
    runtime: runtime.Runtime
    data: sets.DataSet
    images: Images
    folder: Path
    run: outputs.RunFolder | None  # rank 0 alone writes
    console: Console
    tracker: Tracker
    stop: StopRequest

    @property
    def place(self) -> Place:
        return Place(self.runtime.device, self.runtime.rank, self.runtime.world)

    @property
    def reading(self) -> ReadOptions:
        dataset = self.config.dataset
        return ReadOptions(self.data.image_size, workers(dataset.workers, self.data.train), dataset.timeout_s, dataset.max_pixels)

    def train_batches(self, seed: int) -> TrainLoader:
        dataset = self.config.dataset
        view_seed = seed if dataset.view_seed is None else dataset.view_seed
        augment = Augment(dataset.augment, self.data.image_size, len(self.images.classes), view_seed)
        return TrainLoader(self.data.train, augment, self.config.trainer.batch_size, seed, self.place, self.reading, dataset.views)

    def plain_batches(self, split: Split, at_most: int | None = None) -> PlainLoader:
        size = max(self.config.trainer.batch_size, 128)
        return PlainLoader(split, min(size, at_most or size), self.place, self.reading)

    def few_images(self, count: int) -> Batch:
        """The first images of the training split, to see what nets make of them; read in this process."""
        split = self.data.train
        images = split.take(range(min(count, len(split))))
        [batch] = PlainLoader(images, count, Place(self.runtime.device), replace(self.reading, workers=0))
        return batch

    def stage_folder(self, name: str) -> Path:
        if self.run is not None:
            return self.run.stage(name)
        return self.folder / name

    def stage_record(self, name: str) -> dict[str, Any] | None:
        """A finished stage's record, the same on every rank."""
        found = self.run.record["stages"].get(name) if self.run is not None else None
        return self.runtime.from_main(found)


@contextlib.contextmanager
def session(config: FitConfig, folder: Path | None, stop: StopRequest) -> Iterator[Session]:
    """Everything a command needs, from the cheapest check to the loaded data set."""
    with runtime.joined(config.trainer) as machine:
        console = Console(silent=not machine.is_main)
        folder = Path(machine.from_main(str(folder)))
        run = first_on_main(machine, lambda: claim(config, folder))
        data, images = loaded(config, machine, console)
        if run is not None:
            same_data_as_before(run, data.fingerprint)
            console.say(f"run folder: {folder}")
        tracker = make_tracker(config.tracker, folder, console.warn) if machine.is_main else Tracker()
        try:
            yield Session(config, machine, data, images, folder, run, console, tracker, stop)
        finally:
            console.end_stage()
            tracker.close()


def loaded(config: Any, machine: runtime.Runtime, console: Console) -> tuple[sets.DataSet, Images]:
    """The data set, the same on every rank, and what models will see of it."""
    names = taught_classes(config)
    data = first_on_main(machine, lambda: sets.load(config.dataset, names)) or sets.load(config.dataset, names)
    for note in data.notes:
        console.say(note)
    same_data_everywhere(machine, data.fingerprint)
    return data, Images(data.classes, data.image_size, data.mean, data.std)


def taught_classes(config: Any) -> list[str] | None:
    """The class names in a trained teacher's record: images without labels may have no others."""
    teacher = getattr(config, "teacher", None)
    if config.dataset.labels or teacher is None:
        return None
    for key, model in {"teacher": teacher, **{f"teacher.members.{name}": member for name, member in teacher.members.items()}}.items():
        record = source_of(model, key)[1] if model.checkpoint and not model.new_head else None
        if record is not None:
            return list(record.classes)
    return None


def claim(config: FitConfig, folder: Path) -> outputs.RunFolder:
    """The run's folder, locked, on a disk that has room for it. A run that is there already is gone on with by resume alone."""
    if config.resume is None and (folder / outputs.RUN_FILE).exists():
        raise ConfigError(f"hydra.run.dir={folder}: this folder holds a run already; choose another, or go on with resume={folder}")
    run = outputs.RunFolder(folder, command_of(config), config.seed)
    free = shutil.disk_usage(folder).free / 2**20
    if free < LEAST_FREE_MIB:
        raise MachineError(f"{folder}: {free:.0f} MiB free, at least {LEAST_FREE_MIB} are needed; free some space or set hydra.run.dir")
    return run


def command_of(config: FitConfig) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def first_on_main(machine: runtime.Runtime, work: Callable[[], Any]) -> Any:
    """Do something on rank 0 while the others wait; its error is everybody's. None on the others."""
    result, problem = None, None
    if machine.is_main:
        try:
            result = work()
        except UserError as error:
            problem = error
    if machine.world > 1:
        shared = machine.from_main((type(problem), str(problem)) if problem else None)
        if shared and not machine.is_main:
            raise shared[0](shared[1])
    if problem:
        raise problem
    return result


def same_data_everywhere(machine: runtime.Runtime, fingerprint: str) -> None:
    if machine.highest(int(machine.from_main(fingerprint) != fingerprint)):
        raise DataError("dataset.root: the ranks read different data; give all machines the same files")


def same_data_as_before(run: outputs.RunFolder, fingerprint: str) -> None:
    """A resumed run must not go on with other images."""
    before = run.record["data"]
    if before not in (None, fingerprint):
        raise DataError("dataset.root: the data set is not what it was when this run started; put it back, or start a new run")
    run.record["data"] = fingerprint
    run.write()


def workers(asked: int | None, split: Split) -> int:
    """Decoding processes: none for images in memory, else one a core that this process may use."""
    if not isinstance(split.images, list):
        return 0
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, cores // Rank.here().local_world)
