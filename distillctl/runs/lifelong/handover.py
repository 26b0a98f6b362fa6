"""What one task of a sequence hands to the next: the student, its head grown where that grows, and what the strategy carries over."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from distillctl import state
from distillctl.build import find_class
from distillctl.config import chosen
from distillctl.data.loader import Place, TrainLoader
from distillctl.draws import seed_of
from distillctl.errors import CheckpointError
from distillctl.files import read_bytes
from distillctl.models.adapter import Adapter
from distillctl.models.locate import CARRIED
from distillctl.models.obtain import Obtained, obtain
from distillctl.models.taps import tap
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.sources import Given
from distillctl.runs.steps import Step
from distillctl.strategies.memory import Memory
from distillctl.strategies.strategy import Strategy
from distillctl.strategies.task import Samples
from distillctl.teachers.frozen import Frozen
from distillctl.types import first_sample, to


def going_on(session: Session, bundle: Bundle, step: Step, taps: tuple[str, ...]) -> Obtained:
    """The student that the task before has left; where the head grows, with outputs for the classes of this task."""
    assert isinstance(step.model, Given)
    model, known = step.model.model, session.bundle(step.data).tasks
    assert known is not None
    old, now = known.task(step.tasks[0]).old, len(bundle.inputs.classes)
    if session.config.lifelong.head == "full" or old == now or model.checkpoint is None:
        return obtain(model, bundle.inputs, step.role, step.seed, taps=taps)
    before = obtain(model, replace(bundle.inputs, classes=bundle.inputs.classes[:old]), step.role, step.seed)
    grown = obtain(model, bundle.inputs, step.role, seed_of(step.seed, "head", step.tasks[0]), weights=False)
    extend(grown.classifier.net, before.classifier.net.state_dict(), old, now)
    if taps:
        grown.classifier.taps = tap(grown.net.module, taps, grown.inputs.net_example, step.role)
    return grown


def extend(net: nn.Module, before: Mapping[str, Tensor], old: int, now: int) -> None:
    """Weights of a net of `old` classes for one of `now`, in place: what has an entry for each class keeps its fresh values for the new ones."""
    own = net.state_dict()
    for name, value in before.items():
        if value.shape == own[name].shape:
            own[name].copy_(value)
        else:
            assert (value.shape[0], own[name].shape[0]) == (old, now), name
            own[name][:old] = value


def offers_of(session: Session, bundle: Bundle, step: Step, batches: TrainLoader, student: Adapter) -> dict[str, Callable[[], Any]]:
    """What a strategy can ask for by the name of an argument."""
    assert step.method is not None
    strategy, config, known = find_class(step.method, Strategy, "strategy"), session.config, session.bundle(step.data).tasks
    assert known is not None
    task, machine = known.task(step.tasks[-1]), session.runtime

    def memory() -> Memory | None:
        if not strategy.replays:
            return None
        batches.gives_plain = not strategy.herds
        size = config.memory.batch_size or chosen(config.trainer.batch_size)
        like = bundle.inputs.example(1, machine.device) if batches.memory is None else first_sample(batches.memory)
        return Memory(
            config.memory.size,
            size,
            to(like, machine.device),
            task.total,
            seed_of(step.seed, "memory"),
            batches.views_of,
            config.memory.select or "reservoir",
            strategy.keeps_logits,
        )

    def old() -> Frozen | None:
        if not strategy.distils or not step.goes_on:
            return None
        return Frozen(copy.deepcopy(student), machine.precision, machine.device, config.trainer.channels_last)

    return {
        "task": lambda: task,
        "memory": memory,
        "old": old,
        "past": lambda: past(step),
        "samples": lambda: everywhere(session, bundle),
        "seed": lambda: step.seed,
    }


def everywhere(session: Session, bundle: Bundle) -> Samples:
    """A task's samples as they are stored, in batches that every rank has whole, so that all come to the same."""
    alone = replace(bundle, place=Place(session.runtime.device))
    return Samples(bundle.data.train, alone.plain_batches)


def past(step: Step) -> dict[str, Tensor]:
    """What the strategy left at the end of the task before; nothing in the first, and where only time is measured. Raises CheckpointError."""
    assert isinstance(step.model, Given)
    if not step.goes_on or step.model.model.checkpoint is None:
        return {}
    file = Path(step.model.model.checkpoint).parent / CARRIED
    try:
        return load(read_bytes(file))
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: the run's record says that this task is learnt, but what it carries over is gone; start a new run"
        ) from None
    except Exception as error:
        raise CheckpointError(f"{file}: not what a task carries over ({type(error).__name__})") from None


def hand_over(folder: Path, strategy: Strategy) -> None:
    """Write what the next task begins with."""
    carried = {name: value.detach().cpu().contiguous() for name, value in strategy.carried().items()}
    state.write_atomically(folder / CARRIED, [save(carried)])
