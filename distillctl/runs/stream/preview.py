"""What a stream would do, for people: its plan, and of what is there by now how many samples that is."""

from __future__ import annotations

from pathlib import Path

from distillctl import state
from distillctl.report.console import Table
from distillctl.runs.session import Session
from distillctl.runs.stream import world
from distillctl.runs.stream.plan import StreamPlan, Teaches
from distillctl.runs.stream.saving import STAGE


def preview(session: Session, todo: StreamPlan) -> None:
    """Print it."""
    table = Table()
    for heading in ("what", ""):
        table.add_column(heading, overflow="fold", no_wrap=heading == "what")
    for name, words in rows(todo, there(session, todo)):
        table.add_row(name, words)
    session.console.table(table)
    if session.config.resume is not None:
        done = (state.described(Path(session.config.resume) / STAGE) or {}).get("position", 0)
        session.console.say(f"goes on behind {done:,} samples")
    session.console.say(f"the run is about: {todo.final}")


def there(session: Session, todo: StreamPlan) -> int | None:
    """How many samples will be learnt or held out of what is there by now; None of a watched folder."""
    if todo.source == "watch":
        return todo.samples
    data = session.bundle(session.config.dataset).data.train
    found = len(data) if todo.source == "dataset" else len(world.listed(session.config, todo.source))
    return found if todo.samples is None else min(found, todo.samples)


def rows(todo: StreamPlan, samples: int | None) -> list[tuple[str, str]]:
    """What the plan says, a line each."""
    count = "until it is stopped" if samples is None else f"{samples:,} samples"
    gate, memory, detector = todo.gate, todo.memory, todo.detector
    when = f"every {gate.every:,} samples and at the end" if gate.every is not None else "at the end"
    refused = (
        f"an accuracy {f'more than {gate.tolerance:g} ' if gate.tolerance else ''}below the deployed model's"
        if gate.by == "difference"
        else f"samples lost to the deployed model as a model that is no worse loses them in at most {gate.alpha:g} of all cases"
    )
    found = [
        ("source", f"{todo.where} ({todo.source}), {count}"),
        ("order", f"{todo.order}, in batches of {todo.batch_size}"),
        ("student", f"{todo.student}, by {' + '.join(todo.loss)}" + (f"; beside it: {', '.join(todo.beside)}" if todo.beside else "")),
        ("teacher", taught(todo.teacher)),
        ("memory", f"{memory.size:,} samples ({memory.select}), {memory.batch_size} beside each batch"),
        (
            "drifts",
            f"told by {detector.name}, of the {detector.signal}{'; the memory is emptied then' if detector.forget else ''}"
            if detector is not None
            else "not looked for",
        ),
        ("held out", f"{gate.share:.0%} of the samples, never learnt; the last {gate.held_out:,} count"),
        ("gate", f"{when}; refused: {refused}"),
        ("versions", "all stay" if gate.keeps is None else f"the last {gate.keeps} stay"),
        ("saved", f"every {todo.save_every:,} batches"),
    ]
    return [*found, *(("writes" if place == 0 else "", name) for place, name in enumerate(todo.writes))]


def taught(teacher: Teaches) -> str:
    """Who teaches, what, and how it moves on."""
    if teacher.kind == "none":
        return "nobody: labels and memory alone"
    who = {"ema": "an average of the student's weights", "student": "a copy of the student", "model": str(teacher.model)}[teacher.kind]
    asked = f"{who}, asked of {'kept samples' if teacher.taught == 'memory' else 'new and kept samples'}"
    if teacher.kind == "ema":
        return f"{asked}; follows at each step"
    if teacher.refresh == "never":
        return f"{asked}; stays as it is"
    moment = f"every {teacher.every:,} samples" if teacher.every is not None else "when a drift is told"
    return f"{asked}; {moment} " + (f"it learns for {teacher.steps} steps" if teacher.steps is not None else "it is taken anew")
