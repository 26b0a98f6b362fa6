"""Which of a run's models is final: the student before or after fine-tuning, by validation; of its files the last that is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.runs import choose
from distillctl.runs.measure import validated
from distillctl.runs.session import Session
from distillctl.runs.ship import ship_given
from distillctl.runs.sources import Given, MadeBy
from distillctl.runs.steps import Choice, Plan

FILES = ("export", "quantize")  # what leaves a model for another runtime


@dataclass(frozen=True)
class Decision:
    """row: of the student that is final, and why; empty where there was no choice. file: its weights, None on ranks that write nothing.
    shipped: where in the run's folder it was copied to, as it was given; else empty."""

    row: str
    why: str = ""
    file: Path | None = None
    shipped: str = ""


def decide(session: Session, plan: Plan, made: Mapping[str, Path], rows: Sequence[Mapping[str, Any]] = ()) -> Decision:
    """Of a plan with a choice that student which validation says is better. rows: what was measured of both, where it was; else they are measured."""
    choice = plan.choice
    if choice is None or not session.bundle(plan.test).data.val.labelled:
        return Decision(choice.after if choice is not None else student_row(plan), file=made.get("finetune"))
    if session.decision is None:
        before, after = measured(session, plan, choice, made, rows)
        ranked = choose.ranking(session.config.trainer, labelled=True, taught=False)
        final, why = choose.final_of(ranked, before, after, choice.kept, session.bundle(plan.test).inputs.noun)
        session.decision = found(session, plan, final, why, before, made)
    return session.decision


def student_row(plan: Plan) -> str:
    """The row that the run is about before anything is written of it."""
    files = [step.name for step in plan.transforms if step.does in FILES]
    own = [row.name for row in plan.rows if row.own and not (isinstance(row.model, MadeBy) and row.model.step in files)]
    return own[-1] if files and own else plan.final


def measured(
    session: Session, plan: Plan, choice: Choice, made: Mapping[str, Path], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    names = (choice.before, choice.after)
    if rows:
        return [next(row for row in rows if row["model"] == name) for name in names]
    return [validated(session, plan, plan.row(name), made) for name in names]


def found(session: Session, plan: Plan, final: str, why: str, before: Mapping[str, Any], made: Mapping[str, Path]) -> Decision:
    row, shipped = plan.row(final), ""
    if session.run is None:
        return Decision(final, why)
    if isinstance(row.model, Given):  # as it was given, from another place
        shipped = ship_given(session, plan, row, before)
    return Decision(final, why, session.run.path / (shipped or plan.file(row.model) or ""), shipped)


def last_accepted(session: Session, plan: Plan) -> str:
    """The step whose file is the one to be used, of those that write one."""
    done = {step.name: session.stage_record(step.name) or {} for step in plan.transforms if step.does in FILES}
    return [name for name, found in done.items() if found.get("file") and found.get("accepted", True)][-1]


def deployed(session: Session, plan: Plan, decision: Decision) -> tuple[str, str]:
    """The row that the run is about, and why: of files the last that was accepted."""
    final, reasons = decision.row, list[str]()
    for step in plan.transforms:
        done = session.stage_record(step.name)
        row = next((row.name for row in plan.rows if row.model == MadeBy(step.name)), None)
        if done is None or row is None or step.does not in FILES:
            continue
        taken = done.get("accepted", True) and done["file"] and done.get("runs", True)
        final, reasons = (row, [done.get("why", "")]) if taken else (final, [*reasons, done.get("why", "")])
    if not reasons:
        return final, decision.why
    student = decision.why.replace("* final:", "the student:", 1)
    return final, "\n".join(filter(None, (student, f"* final: {final}; {'; '.join(filter(None, reasons))}")))
