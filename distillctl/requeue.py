"""Starts that a scheduler makes again by the same command: Slurm after a preemption, torchrun after a failure. No torch here."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillctl.files import read_json

RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def is_again() -> bool:
    """Whether this start is not the first of its job."""
    return any(re.fullmatch("0*[1-9][0-9]*", os.environ.get(name, "")) for name in RESTARTS)


def is_queued() -> bool:
    """Whether a scheduler may tell this process to end, and tell it again."""
    return "SLURM_JOB_ID" in os.environ


def name_of_job() -> str | None:
    """The same at every start of a job, and another for any other; None outside a scheduler."""
    if is_queued():
        return f"slurm {os.environ['SLURM_JOB_ID']}"
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return None
    agent = f" of {os.getppid()} on {socket.gethostname()}"  # where torchrun was given no id, its own process tells jobs apart
    return f"torchrun {run}{agent if run in ('', 'none') else ''}"


def mine(words: Sequence[str]) -> dict[str, Any] | None:
    """What a run's record says of the job that it was begun in. A job may have several runs, which their words tell apart."""
    job = name_of_job()
    return {"name": job, "words": list(words)} if job is not None else None


def is_mine(record: Mapping[str, Any], words: Sequence[str]) -> bool:
    """Whether an earlier start of this same job has left a record."""
    return is_again() and record.get("job") is not None and record["job"] == mine(words)


def find(command: str, name: str, words: Sequence[str]) -> Path | None:
    """The folder below outputs/ that an earlier start of this job has made; None at a first start. name: of the file that records it."""
    if not is_again():
        return None
    for file in sorted(Path("outputs", command).glob(f"*/{name}"), reverse=True):
        try:
            record = read_json(file)
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and is_mine(record, words):
            return file.parent.absolute()
    return None
