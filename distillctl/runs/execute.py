"""Do what a plan says: its steps in order, each from what those before it have made; then measure them all, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillctl.config import LifelongConfig
from distillctl.ranks import Figures
from distillctl.report import table
from distillctl.runs import objective, search
from distillctl.runs.beside import write_cards
from distillctl.runs.decide import Decision, decide, deployed, last_accepted
from distillctl.runs.excuse import same_data_as_before
from distillctl.runs.lengths import announce, cut_in_words, too_few_in_words
from distillctl.runs.lifelong import results as lifelong
from distillctl.runs.measure import measure_rows
from distillctl.runs.outlook import estimate
from distillctl.runs.plan import plan
from distillctl.runs.preflight import preflight
from distillctl.runs.reuse import train_once
from distillctl.runs.session import Session
from distillctl.runs.sources import CHOICE, FILE, MadeBy
from distillctl.runs.steps import Plan, Step, Transform
from distillctl.runs.train import train
from distillctl.runs.transform import transform


def execute(session: Session, planned: Plan | None = None) -> Figures:
    """All of a plan, by default that of the config. Returns what a sweeper is told: figures of the validation split."""
    todo = plan(session.config) if planned is None else planned
    prepare(session, todo)
    made = train_steps(session, todo)
    return conclude(session, todo, made)


def prepare(session: Session, plan: Plan) -> None:
    """Load and check everything, before the first step; write down in run.json what will be done."""
    others = [session.bundle(data).data for data in plan.data[1:]]
    if session.run is not None and others:
        same_data_as_before(session.run, "other_data", others)
    preflight(session, plan)
    for note in plan.notes:
        session.console.say(note)
    announce(session, plan)
    if session.run is not None:
        session.run.record["plan"] = plan.record()
        session.run.write()
    estimate(session, plan)


def train_steps(session: Session, plan: Plan) -> dict[str, Path]:
    """The files of every step that is not skipped and leaves one, by its name; and that of the student before or after fine-tuning, once it is needed."""
    made: dict[str, Path] = {}
    said: set[str] = set()
    for step in plan.steps:
        if step.skipped:
            session.console.say(step.skipped)
            continue
        if why := search.left_out(plan, step, session.stage_record):
            leave_out(session, step, why, said)
            continue
        if isinstance(step, Transform):
            if step.model == MadeBy(CHOICE) and CHOICE not in made:
                made[CHOICE] = session.runtime.from_main(decide(session, plan, made).file)
            if step.model == MadeBy(FILE):
                made[FILE] = made[last_accepted(session, plan)]
            file = transform(session, plan.ready_to_transform(step, made))
            made |= {} if file is None else {step.name: file}
        else:
            made[step.name] = (train_once if step.reuse else train)(session, plan.ready(step, made))
    return made


def leave_out(session: Session, step: Step | Transform, why: str, said: set[str]) -> None:
    """Write down why a step of a search is not done, and say it once for all steps of a level."""
    if session.run is not None:
        session.run.finish_stage(step.name, {"left_out": why})
    if why not in said:
        session.console.say(why)
    said.add(why)


def conclude(session: Session, plan: Plan, made: dict[str, Path]) -> Figures:
    """Measure, choose what is final, print the table, close the run."""
    bundle = session.bundle(plan.test)
    rows = measure_rows(session, plan, bundle, made)
    if isinstance(session.config, LifelongConfig):
        rows = lifelong.add_figures(session, plan, rows)
    decision = decide(session, plan, made, rows)
    kept = search.result(session, plan)
    final, why = (
        deployed(session, plan, decision)
        if kept is None
        else (kept.name, f"* final: {kept.name}, {kept.sentence}" if kept.met else kept.sentence)
    )
    figures = objective.told(next(row for row in rows if row["model"] == final), session.config.objective)
    if session.run is not None:
        if kept is not None:
            session.run.record["budget_met"] = kept.met
        record_final(session, plan, final, decision)
        results = table.Results(
            rows,
            final,
            tuple(row.name for row in plan.rows if row.own),
            bundle.inputs.noun,
            why,
            session.over_seeds,
            too_few_in_words(session, plan),
        )
        print_results(session, results, bundle.data)
        if isinstance(session.config, LifelongConfig):
            lifelong.write(session, plan, rows)
        if line := cut_in_words(session, plan):
            session.console.say(line)
        write_cards(session, plan, made, rows)
        session.run.finish(results.summary(session.config.seed) | {"objective": figures})
        session.console.say(f"results: {session.folder / 'summary.json'}")
    return objective.as_returned(figures)


def record_final(session: Session, plan: Plan, final: str, decision: Decision) -> None:
    """Which row is final, of which student, and where its file lies."""
    assert session.run is not None
    recorded = plan.record() | {"final": final, "student": decision.row}
    if decision.shipped:
        recorded["rows"] = [row | {"file": decision.shipped} if row["name"] == decision.row else row for row in recorded["rows"]]
    session.run.record["plan"] = recorded
    session.run.write()


def print_results(session: Session, results: table.Results, data: Any) -> None:
    count = f"{len(data.test):,} {results.noun}"
    held_out = f"test, {count}" if data.test.labelled else f"held out, {count} without labels"
    session.console.table(results.table(f"{data.name} {held_out}"))
    for line in results.remarks():
        session.console.say(line)
