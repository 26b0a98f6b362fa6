"""What the steps of a run share: machine, folder, console, stop; set up and checked before any training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from distillctl import outputs, runtime
from distillctl.config import API, AUTO, DatasetConfig, Distils, LifelongConfig, Pretrains, RunConfig, StreamConfig, TrainerConfig
from distillctl.data.loader import Place
from distillctl.data.split import Excused
from distillctl.errors import BadSample, DataError, Interrupted, UserError
from distillctl.files import TEXT_LIMIT, read_text
from distillctl.interruption import StopRequest
from distillctl.invocation import Invocation
from distillctl.models.obtain import source_of
from distillctl.report.console import Console
from distillctl.report.trackers import Tracker, make_tracker
from distillctl.runs import answering, budget, bundle, labelling
from distillctl.runs.bundle import Bundle
from distillctl.runs.clock import Clock
from distillctl.runs.excuse import excuse, excused_in, same_data_as_before
from distillctl.runs.lifelong.tasks import arranged, of_folders, part_of
from distillctl.runs.sources import members_of
from distillctl.runs.steps import Step
from distillctl.runs.stream import world
from distillctl.teachers.answers import table


@dataclass
class Session:
    """One process's part in one run. `run` is None where there is none, and on all ranks but 0, which alone writes."""

    config: Any
    runtime: runtime.Runtime
    folder: Path
    run: outputs.RunFolder | None
    console: Console
    tracker: Tracker
    stop: StopRequest
    go_on: str = ""  # the line that resumes the run
    over_seeds: str = ""  # the line that does the same with several seeds
    bundles: list[Bundle] = field(default_factory=list)
    parts: dict[tuple[int, tuple[int, ...]], Bundle] = field(default_factory=dict)  # of them, by their places and the tasks
    clock: Clock = field(default_factory=Clock)
    chosen: dict[str, Any] = field(default_factory=dict)  # what the config left open, by full keys
    excused: Excused | None = None  # the samples that earlier attempts ended by
    decision: Any = None  # which student is final, once that was chosen
    remarked: set[str] = field(default_factory=set)  # what was said of samples
    unasked: bool = False  # whether the data are looked at without the answers of a teacher that is only these

    def bundle(self, data: DatasetConfig) -> Bundle:
        """A data set, loaded once, the same on every rank. Says what is to be said of it."""
        found = next((known for known in self.bundles if known.config == data), None)
        if found is None:
            found = self.load(data)
            self.bundles.append(found)
        return found

    def bundle_of(self, step: Step) -> Bundle:
        """What a step learns from: a data set, or the tasks of it that are its own."""
        whole = self.bundle(step.data)
        if not step.tasks:
            return whole
        key = (self.bundles.index(whole), step.tasks)
        if key not in self.parts:
            self.parts[key] = part_of(whole, step.tasks, self.config.lifelong.head == "growing")
        return self.parts[key]

    def load(self, data: DatasetConfig) -> Bundle:
        """As the config has it; where that is a sequence of tasks, with its classes in the order in which they come."""
        if isinstance(self.config, StreamConfig) and self.config.stream.path is not None:
            return self.of_stream(data)
        if not isinstance(self.config, LifelongConfig):
            return self.read(data)
        folders = self.config.lifelong.folders
        found = of_folders([self.read_folder(data, root) for root in folders]) if folders else arranged(self.read(data), self.config)
        assert found.tasks is not None
        for line in found.tasks.in_words():
            self.console.say(line)
        return replace(found, config=data)

    def read_folder(self, data: DatasetConfig, root: str) -> Bundle:
        """The data of one task, whose folder the config has by another key."""
        try:
            return self.read(replace(data, root=root), part=True)
        except UserError as error:
            raise type(error)(*(line.replace("dataset.root=", "lifelong.folders: ", 1) for line in error.problems)) from None

    def of_stream(self, data: DatasetConfig) -> Bundle:
        """What the samples of a stream are, which are still to come."""
        before = self.run.record.get(world.KEY) if self.run is not None else None
        found, told = world.bundle_of(self.config, data, Place(self.runtime.device), self.config.trainer.batch_size, before)
        self.console.say(f"stream: {self.config.stream.path} ({told['source']}), {len(told['classes'])} classes, {told['image_size']} px")
        if self.run is not None:
            self.run.record[world.KEY] = told
        return found

    def read(self, data: DatasetConfig, part: bool = False) -> Bundle:
        """part: it is one of several sets that make one."""
        machine, names = self.runtime, taught_classes(self.config, data)
        trainer = self.config.trainer
        place = Place(machine.device, machine.rank, machine.world, pieces_of(trainer, machine.world))

        def read() -> Bundle:
            return bundle.load(data, 0 if trainer.batch_size == AUTO else trainer.batch_size, place, names, self.excused, part)

        found = first_on_main(machine, read) or read()
        found = self.with_answers(found)
        made = self.run.path / f"made-{found.data.fingerprint[:16]}.json" if self.run is not None else None
        found.inputs.settle(machine.from_main(read_text(made, TEXT_LIMIT) if made is not None and made.is_file() else None), made)
        for note in [found.described(), *found.data.notes]:
            self.console.say(note)
        same_data_everywhere(machine, found.data.fingerprint)
        if found.answers is not None:
            same_data_everywhere(machine, found.answers.table.sha256, "teacher.file: the ranks read different answers")
        return found

    def with_answers(self, found: Bundle) -> Bundle:
        """With what a teacher that is only answers says of it; of an endpoint rank 0 fetches them."""
        teacher = answering.of_config(self.config)
        if teacher is None or self.unasked:
            return found
        machine = self.runtime
        if teacher.name == API:
            label = partial(labelling.label, found, teacher, self.config.seed, self.console, self.stop)
            return answering.with_answers(found, machine.from_main(first_on_main(machine, label)))
        read = partial(table.read, teacher)
        return answering.with_answers(found, first_on_main(machine, read) or read())

    def settle(self) -> None:
        """Choose what the config leaves open, by the data of this run, once for all its attempts, and write it down."""
        asked = budget.open_keys(self.config)
        if not asked:
            return
        before = self.runtime.from_main(self.run.record.get("budget") if self.run is not None else None)
        samples, pieces = len(self.bundle(self.config.dataset).data.train), pieces_of(self.config.trainer, self.runtime.world)
        self.config = budget.settle(budget.settle_as(self.config, before), samples, pieces)
        self.bundles, self.parts = [replace(known, batch_size=self.config.trainer.batch_size) for known in self.bundles], {}
        self.chosen = {key: value for key, value in budget.choices(self.config).items() if key in asked}
        if self.run is not None:
            self.run.record["budget"] = self.chosen
            self.run.write()

    def remark(self, found: Bundle) -> None:
        """Say what models met in the samples that they have read by now, each line once a run."""
        for line in found.inputs.remarks():
            if line not in self.remarked:
                self.remarked.add(line)
                self.console.say(line)

    def stage_folder(self, name: str) -> Path:
        if self.run is not None:
            return self.run.stage(name)
        return self.folder / name

    def stage_record(self, name: str) -> dict[str, Any] | None:
        """A finished step's record, the same on every rank."""
        found = self.run.record["stages"].get(name) if self.run is not None else None
        return self.runtime.from_main(found)

    def interrupted(self) -> Interrupted:
        """Everything is saved; say how to go on."""
        return Interrupted(f"interrupted; go on with: {self.go_on}", self.stop.signal_number or 15)


@contextlib.contextmanager
def session(
    config: RunConfig, folder: Path | None, stop: StopRequest, asked: Invocation | None = None, unasked: bool = False
) -> Iterator[Session]:
    """Everything a command needs, from the cheapest check to the loaded data set. Without a folder nothing is written. unasked: as `Session.unasked`."""
    asked = asked or Invocation(command_of(config))
    with runtime.open_runtime(config.trainer) as machine:
        console = Console(silent=not machine.is_main, patient=True)
        shared = machine.from_main((str(folder), asked.go_on(folder)) if folder is not None else None)
        place, go_on = (Path(shared[0]), shared[1]) if shared is not None else (Path(), "")
        run = first_on_main(machine, lambda: claim(config, place, asked)) if shared is not None else None
        running = Session(
            config, machine, place, run, console, Tracker(), stop, go_on, asked.over_seeds(), clock=clock_of(config.trainer, run)
        )
        running.unasked = unasked
        running.excused = machine.from_main(first_on_main(machine, lambda: excused_in(run)))
        if running.excused is not None:
            files = ", ".join(sorted(running.excused.names))
            console.say(f"going on whatever became of the data file that this run ended by: {files}")
        data = running.bundle(config.dataset).data
        if run is not None:
            same_data_as_before(run, "data", [data])
            if (known := running.bundles[0].answers) is not None:
                answering.same_as_before(run, known)
        running.settle()
        if run is not None:
            console.say(f"run folder: {place}")
        if machine.is_main and shared is not None:
            running.tracker = make_tracker(config.tracker, place, console.warn)
        try:
            yield running
        except BadSample as problem:
            if run is not None:
                excuse(run, problem, config.dataset, [known.data for known in running.bundles])
            raise
        finally:
            console.end_stage()
            running.tracker.close()


def clock_of(trainer: TrainerConfig, run: outputs.RunFolder | None) -> Clock:
    """The time of a run, of which earlier attempts have taken some."""
    limit_s = None if trainer.max_minutes is None else 60 * trainer.max_minutes
    return Clock(limit_s, sum(stage.get("seconds", 0.0) for stage in run.record["stages"].values()) if run is not None else 0.0)


def pieces_of(trainer: TrainerConfig, world: int) -> int:
    """What a batch is cut into, as batch norm sees it: of all ranks together, or each alone. No rank goes without a sample."""
    seen = trainer.accumulate * (1 if trainer.sync_batchnorm else world)
    return max(seen, -(-trainer.accumulate * world // 2))


def taught_classes(config: Any, data: DatasetConfig) -> list[str] | None:
    """The class names in a trained teacher's record: samples without labels may have no others."""
    if data.labels or not isinstance(config, (Pretrains, Distils)):
        return None
    if (answers := answering.of_config(config)) is not None:
        return answering.classes_of(answers)
    for key, model in members_of(config.teacher).items():
        record = source_of(model, key)[1] if (model.checkpoint or model.file) and not model.new_head else None
        if record is not None:
            return list(record.classes)
    return None


def claim(config: RunConfig, folder: Path, asked: Invocation) -> outputs.RunFolder:
    """The run's folder, locked, on a disk that has room for it. A run that is there already is gone on with by resume alone."""
    return outputs.RunFolder(folder, command_of(config), config.seed, asked, new=config.resume is None)


def command_of(config: RunConfig) -> str:
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


def same_data_everywhere(machine: runtime.Runtime, fingerprint: str, problem: str = "dataset.root: the ranks read different data") -> None:
    if machine.highest(int(machine.from_main(fingerprint) != fingerprint)):
        raise DataError(f"{problem}; give all machines the same files")
