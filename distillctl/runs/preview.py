"""What a run would do, for people: its steps, what of them is there already, and what the others will take.

Nothing is written but what a run fetches too: a data set or published weights. A few steps are taken to time them, and thrown away.
"""

from __future__ import annotations

from pathlib import Path

from distillctl.report.console import Table, in_time
from distillctl.runs import answering
from distillctl.runs.lengths import announce
from distillctl.runs.outlook import TIMED, outlook
from distillctl.runs.plan import plan
from distillctl.runs.preflight import preflight
from distillctl.runs.session import Session
from distillctl.runs.sources import Given, Several, Source
from distillctl.runs.steps import Plan, Transform, Trial


def preview(session: Session) -> None:
    """Print the plan of a config."""
    todo = plan(session.config)
    preflight(session, todo)
    say = session.console.say
    for note in todo.notes:
        say(note)
    announce(session, todo)
    table = Table()
    for heading in ("stage", "model", "taught by", "epochs", "steps", "time", ""):
        table.add_column(
            heading, justify="right" if heading in ("epochs", "steps", "time") else "left", overflow="fold", no_wrap=heading == "stage"
        )
    total, unknown = 0.0, False
    for step in todo.steps:
        if isinstance(step, Transform):
            table.add_row(step.name, named(todo, step.model), "", "", "", "", about_transform(step))
            continue
        found = outlook(session, todo, step)
        total, unknown = total + (found.seconds or 0.0), unknown or (found.steps > 0 and found.seconds is None)
        shown = in_time(found.seconds) if found.seconds else "-" if found.steps else ""
        taught = named(todo, step.teacher) if step.teacher is not None else ""
        table.add_row(step.name, named(todo, step.model), taught, str(step.budget.epochs), f"{found.steps:,}", shown, found.remark)
    session.console.table(table)
    rows = answering.measured_rows(session.bundle(todo.test), todo)
    say(f"then measured on the validation and the test split: {', '.join(row.name for row in rows)}; {about(todo)}")
    if total:
        measured = f"{'at most' if todo.trials else 'about'} {in_time(total)} of training{' and more' if unknown else ''}, from {TIMED - 1} steps of each that were timed here"
        say(f"{measured}; measuring, and a teacher whose answers are kept, not counted")


def about_transform(step: Transform) -> str:
    """By what a step works that trains nothing."""
    if isinstance(step.settings, Trial):
        return "" if step.does != "level" else step.settings.prune.name if step.settings.prune else "as it is"
    return str(getattr(step.settings, "name", "") or getattr(step.settings, "format", ""))


def about(todo: Plan) -> str:
    """Which of the rows is final, as far as that can be told."""
    choice = todo.choice
    if todo.trials:
        return "of these what the search makes; final is the file of the first level that meets the budget"
    if choice is None or choice.kept:
        return f"the run is about: {todo.final}"
    return f"final is what validation says is better: {choice.before} or {choice.after}"


def named(todo: Plan, source: Source) -> str:
    """What people call a model: its architecture, and the step that it comes from."""
    if isinstance(source, Several):
        return " + ".join(named(todo, member) for member in source.members.values())
    if isinstance(source, Given):
        model = source.model
        if answering.is_answers(source):
            return f"answers in {Path(str(model.file)).name}"
        return model.checkpoint if model.name == "recorded" and model.checkpoint else model.name
    return f"{source.step}'s {source.peer}" if source.peer else source.step
