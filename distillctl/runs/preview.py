"""What a run would do, for people: its steps, what of them is there already, and what the others will take.

Nothing is written but what a run fetches too: a data set or published weights. A few steps are taken to time them, and thrown away.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distillctl import outputs, state
from distillctl.config import Distils, ModelConfig, Pretrains
from distillctl.errors import Interrupted
from distillctl.loop import fit
from distillctl.report.console import Table, in_time
from distillctl.runs import reuse
from distillctl.runs.assemble import assemble
from distillctl.runs.check import preflight
from distillctl.runs.keeping import root_of
from distillctl.runs.plan import plan
from distillctl.runs.registry import FOLDER, look_up
from distillctl.runs.session import Session
from distillctl.runs.steps import Given, Plan, Several, Source, Step
from distillctl.runtime import threads_for

TIMED = 3  # steps, of which the first warms up
PATIENCE_S = 20.0  # after which fewer are enough


@dataclass(frozen=True)
class Outlook:
    """Of one step. steps: of the optimizer, those that are left; seconds: what they take, None where that is not known."""

    steps: int
    seconds: float | None
    remark: str


def preview(session: Session) -> None:
    """Print the plan of a config."""
    todo = plan(session.config)
    preflight(session, todo)
    say = session.console.say
    for note in todo.notes:
        say(note)
    table = Table()
    for heading in ("stage", "model", "taught by", "epochs", "steps", "time", ""):
        table.add_column(heading, justify="right" if heading in ("epochs", "steps", "time") else "left", overflow="fold")
    total, unknown = 0.0, False
    for step in todo.steps:
        found = outlook(session, todo, step)
        total, unknown = total + (found.seconds or 0.0), unknown or (found.steps > 0 and found.seconds is None)
        shown = in_time(found.seconds) if found.seconds else "-" if found.steps else ""
        taught = named(todo, step.teacher) if step.teacher is not None else ""
        table.add_row(step.name, named(todo, step.model), taught, str(step.budget.epochs), f"{found.steps:,}", shown, found.remark)
    session.console.table(table)
    say(f"then measured on the validation and the test split: {', '.join(row.name for row in todo.rows)}; {about(todo)}")
    if total:
        measured = (
            f"about {in_time(total)} of training{' and more' if unknown else ''}, from {TIMED - 1} steps of each that were timed here"
        )
        say(f"{measured}; measuring, and a teacher whose answers are kept, not counted")


def about(todo: Plan) -> str:
    """Which of the rows is final, as far as that can be told."""
    choice = todo.choice
    if choice is None or choice.kept:
        return f"the run is about: {todo.final}"
    return f"final is what validation says is better: {choice.before} or {choice.after}"


def outlook(session: Session, todo: Plan, step: Step) -> Outlook:
    """What is left of a step."""
    if step.skipped:
        return Outlook(0, None, step.skipped.partition(": ")[2])
    batches = session.bundle(step.data).train_batches(step.seed)
    steps = step.budget.epochs * batches.batches_per_epoch
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
    if reuse.has_own_code(step, session.config):
        return None
    trainer = session.config.trainer
    key = reuse.key_of(session, step, trainer.devices, threads_for(trainer, session.runtime.device, trainer.devices))
    found = look_up(root_of(None) / FOLDER / f"{key}.json", step.role, session.config.teacher.cache.trust_group)
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
        raise Interrupted("interrupted", session.stop.signal_number or 15)
    taken = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    return min(taken[1:] or taken)


def stand_in(todo: Plan, source: Source) -> ModelConfig:
    """A model of the same architecture for one that is not trained yet."""
    if isinstance(source, Several):
        return replace(source.teacher, members={name: todo.base(member) for name, member in source.members.items()})
    return todo.base(source)


def named(todo: Plan, source: Source) -> str:
    """What people call a model: its architecture, and the step that it comes from."""
    if isinstance(source, Several):
        return " + ".join(named(todo, member) for member in source.members.values())
    if isinstance(source, Given):
        model = source.model
        return model.checkpoint if model.name == "recorded" and model.checkpoint else model.name
    return f"{source.step}'s {source.peer}" if source.peer else source.step
