"""Do what a plan says: its steps in order, each from what those before it have made; then measure them all, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillctl.report import table
from distillctl.runs.check import preflight
from distillctl.runs.measure import measure_rows
from distillctl.runs.plan import plan
from distillctl.runs.reuse import train_once
from distillctl.runs.session import Session, same_data_as_before
from distillctl.runs.steps import Plan
from distillctl.runs.train import train


def execute(session: Session, planned: Plan | None = None) -> float:
    """All of a plan, by default that of the config. Returns what a sweeper may maximise."""
    todo = plan(session.config) if planned is None else planned
    prepare(session, todo)
    made = train_steps(session, todo)
    return conclude(session, todo, made)


def prepare(session: Session, plan: Plan) -> None:
    """Load and check everything, before the first step; write down in run.json what will be done."""
    others = [session.bundle(data).data.fingerprint for data in plan.data[1:]]
    if session.run is not None and others:
        same_data_as_before(session.run, "other_data", others)
    preflight(session, plan)
    for note in plan.notes:
        session.console.say(note)
    if session.run is not None:
        session.run.record["plan"] = plan.record()
        session.run.write()


def train_steps(session: Session, plan: Plan) -> dict[str, Path]:
    """The files of every step that is not skipped, by its name."""
    made: dict[str, Path] = {}
    for step in plan.steps:
        if step.skipped:
            session.console.say(step.skipped)
            continue
        made[step.name] = (train_once if step.reuse else train)(session, plan.ready(step, made))
    return made


def conclude(session: Session, plan: Plan, made: dict[str, Path]) -> float:
    """Measure on the test split, print the table, close the run."""
    bundle = session.bundle(plan.test)
    rows = measure_rows(session, plan, bundle, made)
    results = table.Results(rows, plan.final, tuple(row.name for row in plan.rows if row.own), bundle.inputs.noun)
    if session.run is not None:
        print_results(session, results, bundle.data)
        session.run.finish(results.summary(session.config.seed))
        session.console.say(f"results: {session.folder / 'summary.json'}")
    return results.objective


def print_results(session: Session, results: table.Results, data: Any) -> None:
    count = f"{len(data.test):,} {results.noun}"
    held_out = f"test, {count}" if data.test.labelled else f"held out, {count} without labels"
    session.console.table(results.table(f"{data.name} {held_out}"))
    for line in results.remarks():
        session.console.say(line)
