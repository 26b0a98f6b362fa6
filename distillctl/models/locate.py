"""Which file a path names, of weights or exported. No torch here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillctl import state
from distillctl.errors import CheckpointError
from distillctl.files import read_json
from distillctl.formats import by_file
from distillctl.paths import as_path

CARRIED = "carried.safetensors"  # what a task of a sequence hands to the next, beside the student that it leaves

# the rows of runs whose record has no plan: those of the versions before plans were recorded
BEFORE_PLANS = (
    {"name": "teacher", "own": False, "file": "pretrain/teacher.safetensors"},
    {"name": "distilled", "own": True, "file": "distill/student.safetensors"},
    {"name": "fine-tuned", "own": True, "file": "finetune/student.safetensors"},
    {"name": "alone", "own": False, "file": "alone/student.safetensors"},
)


def locate(given: str, role: str, key: str) -> Path:
    """The file of weights, or the exported one, that a path names: itself, or the one in a stage's or a run's folder."""
    path = as_path(given)
    if not path.is_dir() or by_file(path) is not None:
        if path.name in (state.NEWEST, state.BEFORE) and (path.parent / "metrics.jsonl").exists():
            raise CheckpointError(f"{key}={given}: made for resuming a run (resume=<run folder>); give the .safetensors beside it")
        return path
    in_stage = sorted(file for file in path.glob("*.safetensors") if file.name != CARRIED) or sorted(
        file for file in path.glob("*") if by_file(file) is not None
    )
    if len(in_stage) == 1:
        return in_stage[0]
    for file in candidates(path, role):
        with contextlib.suppress(OSError):  # a name that is too long, say: the record may be anybody's
            if file.is_file():
                return file
    kind = role.partition(".members.")[0]
    raise CheckpointError(f"{key}={given}: the folder holds no trained {kind}; give a run folder, a stage's folder or a file")


def candidates(folder: Path, role: str) -> Iterator[Path]:
    """The files of a run's folder that a role may mean, the most finished first: as the plan in its record has them.

    A model is measured as it was made ready; students and teachers are weights wherever there are any.
    """
    kind, _, member = role.partition(".members.")
    rows, final, student = recorded_rows(folder)
    own = [row for row in rows if row["own"] or is_exported(row["file"])][::-1]
    if kind == "model":
        own.sort(key=lambda row: row["name"] != final)
    else:
        own.sort(key=lambda row: (is_exported(row["file"]), row["name"] != student))
    own = [row["name"] for row in own]
    own += [row["name"] for row in rows if row["name"].startswith("generation ")][::-1]
    if member:
        yield folder / f"pretrain-{member}" / "teacher.safetensors"
    names = {"teacher": ["teacher", *own], "student": [*own, "alone", "teacher"], "model": [*own, "teacher", "alone"]}[kind]
    files = {row["name"]: row["file"] for row in rows}
    yield from (folder / files[name] for name in names if files.get(name))


def is_exported(file: str | None) -> bool:
    return file is not None and by_file(Path(file)) is not None


def recorded_rows(folder: Path) -> tuple[list[dict[str, Any]], str, str]:
    """The rows of a run's table with their files, the final one, and the student that this was made from. A record that says nothing of it, or nonsense, is as good as none."""
    try:
        plan = read_json(folder / "run.json")["plan"]
        return [read_row(row) for row in plan["rows"]], str(plan["final"]), str(plan.get("student", plan["final"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [dict(row) for row in BEFORE_PLANS], "fine-tuned", "fine-tuned"


def read_row(row: Any) -> dict[str, Any]:
    """A row whose file lies in the run's folder. Raises ValueError."""
    file = row["file"]
    if file is not None and (Path(file).is_absolute() or ".." in Path(file).parts):
        raise ValueError(f"{file} leads out of its folder")
    return {"name": str(row["name"]), "own": bool(row["own"]), "file": file}
