"""Going on with a run: its own overrides again, new ones on top, and a list of what would change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig, OmegaConf

from distillctl.compose import yaml_files
from distillctl.compose.guard import problem_of_stored, too_many_jobs
from distillctl.compose.kept import absolute
from distillctl.compose.literal import parsed, pieces, quoted, unquoted
from distillctl.config import SCHEMAS, decides, leaves
from distillctl.config.keys import default, flat
from distillctl.errors import CheckpointError, ConfigError
from distillctl.files import check_no_links, parse_json, read_text
from distillctl.invocation import going_on
from distillctl.outputs import read_run
from distillctl.paths import as_path
from distillctl.terminal import say

MAY_CHANGE = ("rounding", "cost", "words")  # between two attempts: what keys decide that change no number beyond its last bits


def overrides(command: str, flags: list[str], given: list[str]) -> list[str]:
    """The overrides that go on with `resume=FOLDER`; none where that run was finished, and its result is printed."""
    own = [word for word in given if not word.startswith("resume=")]
    folder = resumed_folder(given)
    if any(flag in ("-m", "--multirun") for flag in flags):
        raise ConfigError(f"resume={folder}: one run at a time; leave out -m")
    if not folder.is_dir():
        raise CheckpointError(f"resume={folder}: no such folder")
    try:
        record = read_run(folder)
    except CheckpointError as error:
        raise CheckpointError(f"resume={error}; pass the folder of a run, as it was printed at its start") from None
    known = str(record.get("command"))
    if known not in SCHEMAS:
        raise CheckpointError(f"resume={folder}: its run.json names no command ({known[:40]!r})")
    if known != command:
        raise ConfigError(f"resume={folder}: that was distillctl {known}; go on with {going_on(known, folder)}")
    if record.get("status") == "done" and changes_nothing(command, own):
        show_finished(folder, record)
        return []
    check_no_links(folder)
    before = stored(folder, "overrides.yaml")
    if not isinstance(before, list) or not all(isinstance(word, str) for word in before):
        raise CheckpointError(f"resume={folder}: .hydra/overrides.yaml is not a list of overrides")
    check_stored(command, folder, before)
    changed = {word.lstrip("+~").partition("=")[0] for word in own}
    kept = [word for word in before if word.lstrip("+~").partition("=")[0] not in changed and not word.startswith("resume=")]
    kept += counts_before(command, folder, [*kept, *own])
    place = quoted(str(folder.resolve()))
    return [*kept, *own, f"resume={place}", f"hydra.run.dir={place}", "hydra.mode=RUN"]


def summary_of(folder: Path) -> str:
    """summary.json of a finished run. Raises CheckpointError."""
    try:
        return read_text(folder / "summary.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"resume={folder}: its run.json says that it is done, but summary.json cannot be read ({getattr(error, 'strerror', None) or 'no text'})"
        ) from None


def counts_before(command: str, folder: Path, words: list[str]) -> list[str]:
    """Counts that a run had from a config in which they were no `auto` yet, as overrides."""
    before, given = flat(stored(folder, "config.yaml")), {word.lstrip("+~").partition("=")[0] for word in words}
    counts = [key for key, _, rules in leaves(SCHEMAS[command]()) if rules.get("auto") and key not in given]
    return [f"{key}={before[key]}" for key in counts if type(before.get(key)) is int]


def show_finished(folder: Path, record: Mapping[str, Any]) -> None:
    """The table of a run that is done. Raises CheckpointError where there is none that can be shown."""
    from distillctl.report.console import Console
    from distillctl.report.table import Results

    text = summary_of(folder)
    try:
        summary = parse_json(text)
        own = tuple(row["name"] for row in record.get("plan", {}).get("rows", ()) if row["own"])
        results = Results(summary["rows"], summary["final"], own, why=str(summary.get("why", "")))
        table, remarks = results.table("test split"), results.remarks()
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder / 'summary.json'}: not the summary of a run ({type(error).__name__})") from None
    say(f"{folder}: finished {record.get('finished', '')}; nothing to do")
    Console().table(table)
    for line in (*remarks, f"results: {folder / 'summary.json'}"):
        say(line)


def resumed_folder(given: Sequence[str]) -> Path:
    return as_path(unquoted(next(word for word in reversed(given) if word.startswith("resume=")).removeprefix("resume=")))


def sweep_overrides(command: str, given: list[str]) -> list[str] | None:
    """The overrides that go on with the sweep in `resume=FOLDER`; None where that is the folder of no sweep."""
    from distillctl.runs import sweep_folder

    folder = resumed_folder(given)
    record = sweep_folder.read(folder)
    if record is None:
        return None
    if record["command"] != command:
        raise ConfigError(f"resume={folder}: that was distillctl {record['command']}; go on with {going_on(record['command'], folder)}")
    if record["jobs"] is None:
        raise ConfigError(f"resume={folder}: its sweeper chose the jobs as it went, so that they cannot be told again; start a new sweep")
    check_stored(command, folder, record["words"])
    own = [word for word in given if not word.startswith("resume=")]
    for word in own:
        if not word.startswith("hydra") and not (changes_nothing(command, [word]) and len(pieces(word)) == 1):
            raise ConfigError(f"resume={folder}: {word}: a sweep goes on with its own jobs; leave it out, or start a new sweep")
    return [*record["words"], *own, f"hydra.sweep.dir={quoted(str(folder.resolve()))}"]


def check_stored(command: str, folder: Path, words: Sequence[str]) -> None:
    """A folder from elsewhere may set what to train, never how Hydra itself works. Raises CheckpointError."""
    if problem := too_many_jobs(filter(None, map(parsed, words))):
        raise CheckpointError(f"resume={folder}: its overrides make {problem}; refused")
    for word in words:
        for single in [word, *values_of(word)]:
            problem = problem_of_stored(command, single)
            if problem is not None:
                raise CheckpointError(f"resume={folder}: its overrides hold {single[:80]!r}: {problem}; refused")


def values_of(word: str) -> list[str]:
    """Where a word is a sweep, one for each of its values; a glob finds nothing but what there is."""
    override = parsed(word)
    if override is None or not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        return []
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def check_unchanged(folder: Path, composed: DictConfig) -> None:
    """Raise ConfigError that lists every setting that differs from the run's first attempt and may not."""
    before, now = (
        absolute(flat(node), composed) for node in (stored(folder, "config.yaml"), OmegaConf.to_container(composed, resolve=False))
    )
    before = {key: default(composed, key) for key in now} | before  # of a key that came with a later version
    different = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key) and not free(composed, key)]
    if different:
        listed = "; ".join(f"{key} was {before.get(key)}, now {now.get(key)}" for key in different)
        raise ConfigError(f"resume={folder}: {listed}. A resumed run keeps its settings: leave these out, or start a new run")


def changes_nothing(command: str, words: Iterable[str]) -> bool:
    """Whether overrides set nothing that a number depends on."""
    return all(free(SCHEMAS[command], word.lstrip("+~").partition("=")[0]) for word in words)


def free(schema: Any, key: str) -> bool:
    """Whether another attempt may set a key otherwise."""
    return decides(schema, key) in MAY_CHANGE


def stored(folder: Path, name: str) -> Any:
    """A YAML file of the run's first attempt, as plain data."""
    try:
        return yaml_files.load(folder / ".hydra" / name)
    except OSError as error:
        raise CheckpointError(f"resume={folder}: .hydra/{name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CheckpointError(f"resume={folder}: .hydra/{name}: {' '.join(str(error).split())[:200]}") from None
