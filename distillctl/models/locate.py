"""Which file of weights a path names."""

from __future__ import annotations

from pathlib import Path

from distillctl import state
from distillctl.errors import CheckpointError

# where a role's model lies in a run folder, the most finished first
STAGES = {
    "teacher": ("pretrain/teacher", "finetune/student", "distill/student"),
    "student": ("finetune/student", "distill/student", "alone/student", "pretrain/teacher"),
    "model": ("finetune/student", "distill/student", "pretrain/teacher", "alone/student"),
}


def locate(given: str, role: str, key: str) -> Path:
    """The file of weights that a path names: itself, or the one in a stage's or a run's folder."""
    path = Path(given).expanduser()
    if not path.is_dir():
        if path.name in (state.NEWEST, state.BEFORE) and (path.parent / "metrics.jsonl").exists():
            raise CheckpointError(f"{key}={given}: made for resuming a run (resume=<run folder>); give the .safetensors beside it")
        return path
    in_stage = sorted(path.glob("*.safetensors"))
    if len(in_stage) == 1:
        return in_stage[0]
    kind, _, member = role.partition(".members.")
    for place in (f"pretrain-{member}/teacher", *STAGES[kind]) if member else STAGES[kind]:
        file = path / f"{place}.safetensors"
        if file.is_file():
            return file
    raise CheckpointError(f"{key}={given}: the folder holds no trained {kind}; give a run folder, a stage's folder or a file")
