"""The parts of a stream's run, made from its config: source, reader, students, teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distillctl import draws
from distillctl.config import StreamConfig
from distillctl.data.image import reading
from distillctl.data.image.files import BadImage
from distillctl.data.image.loader import WAY_OUT as LEAVE_OUT
from distillctl.data.split import Split
from distillctl.inputs.image import Images
from distillctl.models.adapter import Adapter
from distillctl.models.obtain import obtain
from distillctl.paths import as_path
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.sources import is_ready
from distillctl.runs.stream import ordered, world
from distillctl.runs.stream.guide import Average, Guide, Larger, Snapshot, teacher_kind
from distillctl.runs.stream.journal import FILE, Journal
from distillctl.runs.stream.learner import step, taught_by_labels
from distillctl.runs.stream.source import Entry, Listed, Source, numbered
from distillctl.runs.stream.watch import Watched
from distillctl.strategies.task import Views
from distillctl.types import Batch, Inputs, first_sample, rows, to

STREAMED, REFRESHED = 0, 2**40  # the numbers of views: of new samples, and from where those of a teacher's refresh are


def source_of(session: Session, bundle: Bundle, folder: Path, resting: Callable[[], None]) -> Source:
    """Raises UserError where what there is makes no stream."""
    config: StreamConfig = session.config
    stage, kind = config.stream, world.kind_of_source(config)
    if kind == "dataset":
        return ordered.of_split(bundle.data.train, len(bundle.data.classes), stage)
    root, classes = as_path(str(stage.path)), bundle.inputs.classes
    if kind != "watch":
        entries = numbered(world.listed(config, kind), classes, f"stream.path={stage.path}")
        return Listed(entries if config.dataset.labels else [entry._replace(label=-1) for entry in entries])
    return Watched(
        root,
        Journal(folder / FILE, root),
        classes,
        config.dataset.labels,
        poll_s=stage.poll_s,
        patience_s=stage.patience_s,
        idle_s=stage.idle_s,
        max_pixels=config.dataset.max_pixels,  # type: ignore[attr-defined]
        skips=config.dataset.on_bad_image == "skip",  # type: ignore[attr-defined]
        stop=session.stop,
        warn=session.console.warn,
        resting=resting,
    )


@dataclass(frozen=True)
class Reader:
    """Samples as they are stored, on the device: of files whole along the short edge, as memory would hold them."""

    bundle: Bundle
    max_pixels: int = 0

    def __call__(self, entries: Sequence[Entry]) -> Inputs:
        """Raises BadImage that names a file."""
        split: Split = self.bundle.data.train
        places = [entry.place for entry in entries]
        if isinstance(split.inputs, list) or not all(isinstance(place, int) for place in places):
            files = [split.inputs[place] if isinstance(place, int) else place for place in places]  # type: ignore[index]
            try:
                return reading.in_memory(files, int(self.bundle.inputs.size or 0), self.max_pixels)[0].to(self.bundle.place.device)  # type: ignore[arg-type]
            except BadImage as problem:
                raise BadImage(f"{problem}; {LEAVE_OUT}") from None
        return to(rows(split.inputs, torch.tensor(places)), self.bundle.place.device)


def as_streamed(bundle: Bundle) -> Bundle:
    """The contract of samples as `Reader` gives them: of files whole along the short edge, where measuring sees a part of it. So does whoever asks the deployed model."""
    inputs = bundle.inputs
    return replace(bundle, inputs=replace(inputs, crop=1.0)) if isinstance(inputs, Images) else bundle


def like(bundle: Bundle) -> Inputs:
    """A sample as the stream's are stored."""
    split = bundle.data.train
    found = (
        first_sample(split.inputs) if not isinstance(split.inputs, list) and len(split) else bundle.inputs.example(1, bundle.place.device)
    )
    return to(found, bundle.place.device)


def views_of(session: Session, bundle: Bundle) -> Views:
    """How samples are augmented: as in any other training on this kind of data."""
    nothing = bundle.data.train.take([]) if not isinstance(bundle.data.train.inputs, list) else world.empty(int(bundle.inputs.size or 0))
    return bundle.inputs.train_loader(session.config.dataset, nothing, bundle.batch_size, session.config.seed, bundle.place).views_of


def guide_of(
    session: Session, bundle: Bundle, past: Callable[[], tuple[Inputs, torch.Tensor, torch.Tensor]], views: Views
) -> Callable[[Adapter], Guide] | None:
    """What makes the teacher of a student. past: the memory and the recent samples, which a refresh learns."""
    config: StreamConfig = session.config
    machine, who = session.runtime, teacher_kind(config)
    if who == "none":
        return None
    if who == "ema":
        return lambda student: Average(student, machine, config.stream.ema_decay)
    if who == "student":
        return lambda student: Snapshot(student, machine)

    def learn(model: torch.nn.Module, number: int) -> bool:
        return refresh(session, model, past(), views, number)

    def larger(_: Adapter) -> Guide:
        found = obtain(config.teacher, bundle.inputs, "teacher", config.seed)
        model = found.classifier.to(machine.device)
        if config.trainer.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return Larger(model, machine, is_ready(config.teacher), learn)

    return larger


def refresh(session: Session, model: torch.nn.Module, past: tuple[Inputs, torch.Tensor, torch.Tensor], views: Views, number: int) -> bool:
    """Train a larger teacher on what the stream brought, by labels, with an optimizer of its own that begins anew. Returns whether there was anything."""
    config: StreamConfig = session.config
    inputs, targets, index = past
    if len(targets) < 2:
        return False
    assert isinstance(model, Adapter)
    training = taught_by_labels(model, config, session.runtime)
    size = min(config.stream.refresh_batch, len(targets))
    for place in range(config.stream.refresh_steps):
        chosen = draws.permutation(len(targets), config.seed, "refresh", number, place)[:size].to(index.device)
        view = REFRESHED + number * config.stream.refresh_steps + place
        shown = views(rows(inputs, chosen), index[chosen], view)
        step(
            training,
            Batch(shown, targets[chosen], index[chosen], view),
            config,
            session.runtime,
            draws.seed_of(config.seed, "refresh", number),
        )
    return True
