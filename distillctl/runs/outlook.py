"""What is left of the steps of a plan, and what it will take: a few steps of each are timed, and thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distillctl import outputs, state
from distillctl.config import Distils, ModelConfig, Pretrains
from distillctl.errors import Diverged, Interrupted
from distillctl.loop import fit
from distillctl.paths import cache_folder
from distillctl.report.console import in_time
from distillctl.runs import reuse
from distillctl.runs.assemble import assemble
from distillctl.runs.lengths import length, lengths
from distillctl.runs.registry import FOLDER, look_up
from distillctl.runs.session import Session
from distillctl.runs.sources import Given, Several, Source
from distillctl.runs.steps import Plan, Step
from distillctl.runtime import threads_for

TIMED = 3  # steps, of which the first warms up
PATIENCE_S = 20.0  # after which fewer are enough


LONG_STEPS, LONG_S = 1000, 60.0  # a run that is worth timing, and one that is worth a line


@dataclass(frozen=True)
class Outlook:
    """Of one step. steps: of the optimizer, those that are left; seconds: what they take, None where that is not known."""

    steps: int
    seconds: float | None
    remark: str


def outlook(session: Session, todo: Plan, step: Step) -> Outlook:
    """What is left of a step."""
    if step.skipped:
        return Outlook(0, None, step.skipped.partition(": ")[2])
    batches = session.bundle_of(step).train_batches(step.seed)
    steps = length(step, batches, session.config.trainer).steps
    done = 0
    if session.config.resume is not None:
        folder = Path(session.config.resume)
        if step.name in outputs.read_run(folder)["stages"]:
            return Outlook(0, None, "done before")
        done = int((state.described(folder / step.name) or {}).get("step", 0))
    if not done and step.reuse and (run := found_again(session, step)):
        return Outlook(0, None, f"reused from {run}")
    return Outlook(steps - done, (steps - done) * seconds_a_step(session, todo, step), f"goes on at step {done:,}" if done else "")


def found_again(session: Session, step: Step) -> str | None:
    """The run that trained the same before, if its files are as they were."""
    if reuse.is_its_own(session, step):
        return None
    trainer = session.config.trainer
    key = reuse.key_of(session, step, trainer.devices, threads_for(trainer, session.runtime.device, trainer.devices))
    found = look_up(cache_folder() / FOLDER / f"{key}.json", step.role, session.config.teacher.cache.trust_group)
    return found.run if found is not None else None


def seconds_a_step(session: Session, todo: Plan, step: Step) -> float:
    """Timed on the real nets with weights as they are now: what earlier steps will train is as fast untrained."""
    untrained = replace(step, model=Given(stand_in(todo, step.model), step.role))
    if step.teacher is not None:
        untrained = replace(untrained, teacher=Given(stand_in(todo, step.teacher), "teacher"))
    config = session.config
    if isinstance(config, (Pretrains, Distils)):
        config = replace(config, teacher=replace(config.teacher, cache=replace(config.teacher.cache, mode="off")))
    assembly = assemble(replace(session, config=config), untrained)
    moments = [time.monotonic()]

    def enough() -> bool:
        if session.runtime.device.type == "cuda":
            torch.cuda.synchronize(session.runtime.device)
        moments.append(time.monotonic())
        return len(moments) > TIMED or moments[-1] - moments[0] > PATIENCE_S or session.stop()

    fit(
        assembly.training,
        assembly.batches,
        assembly.settings(config.trainer),
        session.runtime,
        after_step=lambda report: None,
        after_epoch=lambda training, parts: False,
        save=lambda training: None,
        asked_to_stop=enough,
    )
    if session.stop():
        raise session.interrupted() if session.run is not None else Interrupted("interrupted", session.stop.signal_number or 15)
    taken = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    return min(taken[1:] or taken)


def stand_in(todo: Plan, source: Source) -> ModelConfig:
    """A model of the same architecture for one that is not trained yet."""
    if isinstance(source, Several):
        return replace(source.teacher, members={name: todo.base(member) for name, member in source.members.items()})
    return todo.base(source)


def estimate(session: Session, plan: Plan) -> None:
    """Time the steps of a run that may be long, once, before the first; say what they will take, and share out `trainer.max_minutes`."""
    trainer, clock, taken = session.config.trainer, session.clock, lengths(session, plan)
    clock.costs = {name: float(found.steps) for name, found in taken.items()}
    clock.to_answer = [len(session.bundle(plan.test).data.test)] * len(plan.rows)
    limited = clock.limit_s is not None
    long = sum(found.steps for found in taken.values()) >= LONG_STEPS and session.config.resume is None
    if session.runtime.world > 1 or trainer.compile or not (limited or long):
        return
    try:
        clock.costs = {step.name: outlook(session, plan, step).seconds or 0.0 for step in plan.todo}
    except Diverged:
        return  # by a teacher that knows nothing yet; training says whether it is so
    total = sum(clock.costs.values())
    if total >= LONG_S or clock.limit_s is not None and total > clock.limit_s:
        each = ", ".join(f"{name} {in_time(seconds)}" for name, seconds in clock.costs.items() if seconds)
        limit = (
            f"trainer.max_minutes={trainer.max_minutes:g} cuts all of them in proportion" if limited else "trainer.max_minutes=N limits it"
        )
        session.console.say(f"about {in_time(total)} of training, as the first steps were timed here: {each}; {limit}")
