"""What a run of tasks was worth: the matrix of every sequence, the figures that are read off it, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl import state
from distillctl.metrics import continual
from distillctl.models.obtain import obtain
from distillctl.report import matrix as drawn
from distillctl.runs.lifelong.boundary import ROW, measured
from distillctl.runs.lifelong.plan import OWN, strategy_of
from distillctl.runs.lifelong.tasks import Tasks
from distillctl.runs.session import Session
from distillctl.runs.sources import Given
from distillctl.runs.steps import Plan

FILE = "tasks.json"  # all matrices and figures of a run
PROTOCOLS = ("class_il", "task_il")


def add_figures(session: Session, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the final table with what their sequences were worth; of a row that was not trained here as they are."""
    found = sequences_of(session, plan)
    untrained, joint = before_any_task(session, plan), found.get("joint")
    result = []
    for row in rows:
        steps = found.get(str(row["model"]))
        more: dict[str, Any] = {}
        if steps is not None:
            more = worth(steps, untrained, joint[-1]["class_il"] if joint else None, joint[-1]["task_il"] if joint else None)
        result.append({**row, **more})
    return result


def sequences_of(session: Session, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """By the name of its row, what the record of each step of a sequence says of its tasks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for step in plan.todo:
        record = session.stage_record(step.name) or {}
        if step.tasks and ROW in record:
            name = plan.final if step.sequence == OWN else step.sequence
            found.setdefault(name, []).append(record[ROW])
    return found


def before_any_task(session: Session, plan: Plan) -> dict[str, list[float]] | None:
    """What the student answers before it has learnt anything; None under a head that grows, which then has no answer."""
    if session.config.lifelong.head == "growing":
        return None
    whole, step = session.bundle(plan.test), next(step for step in plan.todo if step.sequence == OWN)
    assert isinstance(step.model, Given)
    fresh, strategy = obtain(step.model.model, whole.inputs, "student", session.config.seed), session.config.strategy
    fresh = strategy_of(strategy).adapt(strategy, fresh, None, whole.inputs, session.config.seed)
    found = measured(session, whole, fresh.classifier.to(session.runtime.device), 0)
    return {name: value for name, value in found.items() if name in PROTOCOLS}


def worth(
    steps: Sequence[Mapping[str, Any]],
    untrained: Mapping[str, Sequence[float]] | None,
    joint: Sequence[float] | None,
    joint_task: Sequence[float] | None,
) -> dict[str, Any]:
    """The figures of one sequence, by class-IL, and those that task-IL has too."""
    class_il, task_il = ([step[name] for step in steps] for name in PROTOCOLS)
    found: dict[str, Any] = continual.figures(class_il, joint=joint)
    # before its classes have come a task has no answer among those that have: what was learnt ahead shows under task-IL alone
    told = continual.figures(task_il, untrained["task_il"] if untrained else None, joint_task)
    return {
        **found,
        "task_il": told.pop("final_accuracy"),
        **{f"task_il_{name}": value for name, value in told.items()},
        "mammoth_forgetting": continual.mammoth_forgetting(class_il) if len(class_il) > 1 else None,
        "matrix": class_il,
        "matrix_task_il": task_il,
        "answers_of_last_task": steps[-1].get("answers_of_last_task"),
        "seconds_a_task": [step["seconds"] for step in steps],
        "memory_mb": steps[-1]["memory_bytes"] / 2**20 or None,
        "carried_mb": steps[-1]["carried_bytes"] / 2**20,
    }


def write(session: Session, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> None:
    """The matrices as JSON, in the terminal, and as a picture."""
    assert session.run is not None
    tasks = session.bundle(plan.test).tasks
    assert tasks is not None
    groups = [[tasks.classes[label] for label in group] for group in tasks.own]
    kept = [{name: row[name] for name in row if name == "model" or name in KEPT} for row in rows if "matrix" in row]
    state.write_json(session.folder / FILE, state.finite({"tasks": groups, "sequences": kept}))
    own = next(row for row in rows if row["model"] == plan.final)
    if len(own["matrix"]) > 1:
        session.console.table(drawn.table(plan.final, own["matrix"], own["matrix_task_il"]))
    for line in remarks(own, tasks):
        session.console.say(line)
    if not any(row["model"] == "alone" for row in rows):  # with it the table has said so
        error = 100 * (own["top1"] * (1 - own["top1"]) / own["n"]) ** 0.5
        session.console.say(f"one seed, standard error ±{error:.2f} points on {own['n']:,} {session.bundle(plan.test).inputs.noun}")
    picture(session, kept)


def picture(session: Session, kept: Sequence[Mapping[str, Any]]) -> None:
    file: Path = session.folder / "tasks.png"
    if (problem := drawn.picture(kept, file)) is not None:
        session.console.say(problem)
        return
    session.console.say(f"matrix and curves: {file}")


def remarks(own: Mapping[str, Any], tasks: Tasks) -> list[str]:
    """What the figures mean, in a line or two."""
    *before, last = tasks.own
    if len(own["matrix"]) < 2 or set(last) & {label for group in before for label in group}:
        return []
    share = len(last) / len(tasks.classes)
    return [f"{own['answers_of_last_task']:.0%} of its answers are classes of the last task, which are {share:.0%} of all classes"]


KEPT = (
    *("final_accuracy", "incremental_accuracy", "backward_transfer", "forgetting", "mammoth_forgetting", "intransigence"),
    *(
        "task_il",
        "task_il_incremental_accuracy",
        "task_il_backward_transfer",
        "task_il_forgetting",
        "task_il_forward_transfer",
        "task_il_intransigence",
    ),
    *("matrix", "matrix_task_il", "answers_of_last_task", "seconds_a_task", "memory_mb", "carried_mb"),
)
