"""The folder of a sweep: whose it is, which jobs it has, and what each has left there."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from distillctl import compose, outputs, requeue, state
from distillctl.compose import yaml_files
from distillctl.compose.guard import MOST_JOBS
from distillctl.config import SCHEMAS
from distillctl.config.keys import is_path
from distillctl.entries import Malformed, entry, integer, mapping, text
from distillctl.errors import INTERNAL_ERROR, CheckpointError, ConfigError, UserError, first_line
from distillctl.files import check_no_links, read_json
from distillctl.invocation import going_on
from distillctl.paths import as_path
from distillctl.runs.sweep_table import MEASURED
from distillctl.terminal import complain, complain_of

SWEEP_FILE = "jobs.json"
FAILURE_FILE = "failure.json"  # of a job that has no run.json, or whose command makes none
FORMAT_VERSION = 1  # of jobs.json
TRAINING = ("train", "pretrain", "distill", "finetune")
NOT_FINISHED = {"error": "did not finish", "exit_code": INTERNAL_ERROR}
CLAIMED: dict[Path, IO[str]] = {}  # the locks of sweeps of this process, until it ends


def never_silent(callback: Callable[..., None]) -> Callable[..., None]:
    """A callback of Hydra's whose every failure is a line and an exit code: Hydra itself would warn, and leave by 0."""

    @functools.wraps(callback)
    def calling(*arguments: Any, **named: Any) -> None:
        try:
            callback(*arguments, **named)
        except UserError as error:
            complain_of(error)
            raise SystemExit(error.exit_code) from None
        except Exception as error:
            complain(f"error: internal: {type(error).__name__}: {first_line(error)}")
            with contextlib.suppress(Exception):
                state.write_atomically(Path(named["config"].hydra.sweep.dir) / "error.log", [traceback.format_exc().encode()])
            raise SystemExit(INTERNAL_ERROR) from None

    return calling


def claim(folder: Path, command: str, words: Sequence[str], jobs: Sequence[Sequence[str]] | None) -> bool:
    """Have a sweep's folder alone until this process ends, and write down its jobs; None where the sweeper makes them as it goes.

    Whether a sweep goes on that was begun before, by the same words. Raises ConfigError where something else is there, MachineError where
    another process works there; nothing is changed then.
    """
    lock = outputs.take(folder)
    check_no_links(folder)
    before = read(folder)
    if before is not None:
        if jobs is None or before["jobs"] is None:
            raise ConfigError(f"hydra.sweep.dir={folder}: a sweeper that chooses its jobs as it goes begins anew; choose another folder")
        if before["command"] != command or fixed(command, before["words"]) != fixed(command, words):
            line = going_on(before["command"], folder)
            raise ConfigError(f"hydra.sweep.dir={folder}: this folder holds another sweep; choose another, or go on with: {line}")
    elif any(os.path.lexists(folder / name) for name in (outputs.RUN_FILE, "sweep.json")) or any(folder.glob("[0-9]*/run.json")):
        raise ConfigError(f"hydra.sweep.dir={folder}: this folder holds a run already; choose another")
    else:
        outputs.check_room(folder)
        content = {"format_version": FORMAT_VERSION, "command": command, "words": with_absolute_paths(command, words), "jobs": jobs}
        content["job"] = requeue.mine(words)
        state.write_json(folder / SWEEP_FILE, content)
    CLAIMED[folder] = lock
    return before is not None


def read(folder: Path) -> dict[str, Any] | None:
    """jobs.json of a sweep's folder; None where there is none. Raises CheckpointError."""
    try:
        content = read_json(folder / SWEEP_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / SWEEP_FILE}: cannot be read ({first_line(error)})") from None
    known = isinstance(content, dict) and content.get("format_version") == FORMAT_VERSION and content.get("command") in list(SCHEMAS)
    if not (known and texts(content.get("words")) and (content.get("jobs") is None or are_jobs(content["jobs"]))):
        raise CheckpointError(f"{folder / SWEEP_FILE}: not the record of a sweep that this distillctl can read")
    return content


def are_jobs(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_JOBS and all(map(texts, value))


def texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def fixed(command: str, words: Sequence[str]) -> list[str]:
    """What may not differ where a sweep goes on."""
    from distillctl.compose.resume import changes_nothing

    return [word for word in with_absolute_paths(command, words) if not changes_nothing(command, [word]) or is_path_word(command, word)]


def is_path_word(command: str, word: str) -> bool:
    return is_path(SCHEMAS[command], word.partition("=")[0].lstrip("+"))


def with_absolute_paths(command: str, words: Sequence[str]) -> list[str]:
    """Overrides whose paths are what they are from anywhere; of several values each."""
    return [absolute_word(word) if is_path_word(command, word) else word for word in words]


def absolute_word(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={','.join(absolute(piece) for piece in compose.pieces(value))}"


def absolute(value: str) -> str:
    plain = compose.unquoted(value)
    if plain in ("", "null") or "${" in plain or "(" in value.split("'")[0] or os.path.isabs(plain):
        return value
    return compose.quoted(str(as_path(plain).absolute()))


def is_done(folder: Path) -> bool:
    """Whether a job needs no second start."""
    with contextlib.suppress(UserError):
        return outputs.read_run(folder).get("status") == "done" and (folder / "summary.json").is_file()
    return (folder / "evaluation.json").is_file()


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """What each job left behind: its overrides, its summary, or why it has none."""
    known = read(folder)
    numbers = sorted(int(item.name) for item in folder.iterdir() if re.fullmatch(r"\d{1,9}", item.name))
    if known is not None and known["jobs"] is not None:
        return [read_job(folder / str(number), number, words, known["command"]) for number, words in enumerate(known["jobs"])]
    command = known["command"] if known is not None else ""
    return [read_job(folder / str(number), number, kept_words(folder / str(number)), command) for number in numbers]


def kept_words(place: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        found = yaml_files.load(place / ".hydra" / "overrides.yaml")
        return found if texts(found) else []
    return []


def read_job(place: Path, number: int, overrides: list[str], command: str) -> dict[str, Any]:
    job: dict[str, Any] = {"job": number, "overrides": overrides, "error": None, "exit_code": None}
    try:
        if not os.path.lexists(place / outputs.RUN_FILE):
            return job | read_failure(place, command)
        run = outputs.read_run(place)
        if run.get("status") != "done":
            ended = {"error": run.get("error"), "exit_code": run.get("exit_code")} if run.get("exit_code") else {}
            return job | (ended or NOT_FINISHED)
        summary = read_json(place / "summary.json")
        check_summary(summary)
        own = [str(row["name"]) for row in run.get("plan", {}).get("rows", ()) if row["own"]]
        return {**summary, **job, "stages": sorted(run["stages"]), "own": own}
    except Malformed as error:
        return job | {"error": f"{place / 'summary.json'}: not the table of a run ({error})", "exit_code": error.exit_code}
    except UserError as error:
        return job | {"error": first_line(error), "exit_code": error.exit_code}
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = CheckpointError(f"{place}: its run.json or summary.json cannot be read ({type(error).__name__})")
        return job | {"error": str(problem), "exit_code": problem.exit_code}


def check_summary(content: Any) -> None:
    """Of a job's table what the sweep's is made of. Raises Malformed."""
    if not isinstance(content, dict):
        raise Malformed("it has to be a mapping")
    text(content, "final")
    integer(content, "seed")
    entry(content, "gain_over_alone", (int, float), "a number", None)
    mapping(content, "objective", {})
    for row in entry(content, "rows", list, "a list"):
        if not isinstance(row, dict):
            raise Malformed("rows has to be a list of mappings")
        text(row, "model", inside="rows.")
        for key in MEASURED:
            entry(row, key, (int, float), "a number", None, inside="rows.")


def read_failure(place: Path, command: str) -> dict[str, Any]:
    """Why a job without run.json has none; of a command that makes none, nothing where it has done its work."""
    if (place / FAILURE_FILE).is_file():
        content = read_json(place / FAILURE_FILE)
        return {"error": str(content["error"]), "exit_code": int(content["exit_code"])}
    finished = command not in TRAINING and place.is_dir() and (command != "evaluate" or (place / "evaluation.json").is_file())
    return {} if finished else NOT_FINISHED
