"""The model that is deployed, those before it, and the history that says which is when; put back by `rollback`. No torch here.

`deployed/student.safetensors` is one file, with its record inside, replaced by one rename: who opens it has an old model or a new one, whole.
`versions/NNNN` has each model that was ever deployed and was not pruned, with its record and loading script beside it. `deployed/history.json` is the truth: it is
written first, and what is deployed is then made what its last line says, again and again until it is so (`settle`). So a crash between the
two is mended by whoever comes next; so is one between a line that prunes versions and their end. A lock keeps a run and a rollback apart.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillctl import state
from distillctl.entries import Malformed, entry, integer, text
from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.files import check_no_link, hash_of, read_bytes, read_json
from distillctl.locks import NAME, lock_file, open_lock

DEPLOYED, VERSIONS, HISTORY, WEIGHTS, SCRIPT = "deployed", "versions", "history.json", "student.safetensors", "load_student.py"
KINDS = ("released", "refused", "rolled back")
PATIENCE_S, POLL_S = 30.0, 0.01


class Releases:
    """Of one run's folder."""

    def __init__(self, run: Path):
        self.run, self.folder, self.versions = run, run / DEPLOYED, run / VERSIONS

    def version(self, number: int) -> Path:
        """The folder of a model that was deployed."""
        return self.versions / f"{number:04d}"

    def history(self) -> list[dict[str, Any]]:
        """What became of each model, the oldest first. Raises CheckpointError where it was not written by us."""
        file = self.folder / HISTORY
        try:
            content = read_json(file, links=False)
            if not isinstance(content, list):
                raise Malformed("not a list")
            return [checked(line) for line in content]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, Malformed) as error:
            raise CheckpointError(f"{file}: not the history of a stream ({error}); what is deployed stays as it is") from None

    @property
    def current(self) -> int | None:
        """The version that is deployed; None before the first."""
        return current(self.history())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile. Raises MachineError."""
        check_no_link(self.folder)
        check_no_link(self.versions)
        try:
            self.folder.mkdir(exist_ok=True)
            lock = open_lock(self.folder / NAME)
        except OSError as error:
            raise MachineError(f"{self.folder}: {error.strerror}") from None
        with lock:
            deadline = time.monotonic() + PATIENCE_S
            while not lock_file(lock):
                if time.monotonic() > deadline:
                    raise MachineError(
                        f"{self.folder}: another process has been writing there for {PATIENCE_S:.0f} s; stop it, or try again"
                    )
                time.sleep(POLL_S)
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink()
            yield

    def note(self, line: Mapping[str, Any]) -> None:
        """Write what became of a model, then make it so. Under the lock."""
        state.write_json(self.folder / HISTORY, state.finite([*self.history(), line]))
        self.settle()

    def settle(self) -> None:
        """Make the deployed file what the history says, and let go of what it calls pruned. Under the lock; changes nothing where it is so."""
        history = self.history()
        if (number := current(history)) is not None:
            self.deploy(number, history)
        for gone in sorted(pruned(history) - {number}):
            if os.path.lexists(folder := self.version(gone)):
                check_no_link(folder)
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    raise MachineError(f"{folder}: a version that is pruned cannot be removed ({error.strerror})") from None

    def deploy(self, number: int, history: list[dict[str, Any]]) -> None:
        """Make the deployed file this version."""
        line = next(line for line in reversed(history) if line.get("version") == number and line["what"] != "refused")
        file = self.folder / WEIGHTS
        if file.is_file() and hash_of(file) == line["sha256"]:
            return
        content = self.content(number, line["sha256"])
        script = self.folder / SCRIPT
        if not script.exists():  # the same of all versions
            state.write_atomically(script, [read_bytes(self.version(number) / SCRIPT, links=False)])
        state.write_atomically(file, [content])

    def content(self, number: int, sha256: str) -> bytes:
        """The bytes of a version. Raises CheckpointError where they are not what they were."""
        file = self.version(number) / WEIGHTS
        try:
            if hash_of(file) == sha256:
                return read_bytes(file, links=False)
        except OSError as error:
            raise CheckpointError(f"{file}: {error.strerror}; what is deployed stays as it is") from None
        raise CheckpointError(f"{file}: damaged (checksum mismatch); what is deployed stays as it is")

    def roll_back(self, number: int | None) -> dict[str, Any]:
        """Deploy an older version again; by default the one that was deployed before. Returns the line of the history. Raises UserError."""
        with self.locked():
            self.settle()
            history, now = self.history(), self.current
            if now is None:
                raise CheckpointError(f"folder={self.run}: nothing was deployed by this run yet")
            target = number if number is not None else before(history)
            known = {line["version"]: line["sha256"] for line in history if line["what"] == "released"}
            if target is None:
                raise ConfigError(f"folder={self.run}: version {now} is the first that was deployed; there is none before it")
            if target not in known:
                raise ConfigError(f"version={target}: this run deployed {', '.join(map(str, sorted(known)))}; take one of these")
            if target in pruned(history):
                there = ", ".join(map(str, versions(history)))
                raise ConfigError(
                    f"version={target}: it was pruned, by stream.keep_versions; this run still has {there}; take one of these"
                )
            if target == now:
                raise ConfigError(f"version={target}: it is deployed now; distillctl stream action=history folder={self.run} shows all")
            self.content(target, known[target])
            line = {
                "what": "rolled back",
                "version": target,
                "from": now,
                "sha256": known[target],
                "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            self.note(line)
            return line


def checked(line: Any) -> dict[str, Any]:
    """A line of a history. Raises Malformed."""
    if not isinstance(line, dict) or line.get("what") not in KINDS:
        raise Malformed(f"a line says none of {', '.join(KINDS)}")
    if line["what"] != "refused":
        integer(line, "version", low=1, high=10**6)
        text(line, "sha256")
    if not isinstance(gone := line.get("pruned", []), list):
        raise Malformed("pruned has to be a list")
    for number in gone:
        integer({"pruned": number}, "pruned", low=1, high=10**6)
    if line["what"] != "rolled back":
        integer(line, "position", low=0)
        integer(line, "held_out", low=0)
        if lacking := [name for name in ("accuracy", "deployed", "deployed_accuracy") if name not in line]:
            raise Malformed(f"{lacking[0]} is missing")
        for name in ("accuracy", "deployed_accuracy"):
            entry(line, name, (int, float), "a number", None)
        integer(line, "deployed", None, low=1, high=10**6)
    return line


def current(history: list[dict[str, Any]]) -> int | None:
    """The version that was deployed last."""
    return next((line["version"] for line in reversed(history) if line["what"] != "refused"), None)


def before(history: list[dict[str, Any]]) -> int | None:
    """The newest version below the deployed one that is still there: rolled back twice is two back."""
    now = current(history)
    return max((number for number in versions(history) if now is not None and number < now), default=None)


def versions(history: list[dict[str, Any]]) -> list[int]:
    """Those that were released and are still there, the oldest first."""
    return sorted({line["version"] for line in history if line["what"] == "released"} - pruned(history))


def pruned(history: list[dict[str, Any]]) -> set[int]:
    """Those whose models are gone."""
    return {number for line in history for number in line.get("pruned", [])}


def outdated(history: list[dict[str, Any]], keep: int | None) -> list[int]:
    """What goes with the release that is the last line: all but the newest `keep`, what is deployed, what was before it, and what a rollback would put back."""
    there = versions(history)
    stay = {current(history), current(history[:-1]), before(history)}
    return [number for number in there[:-keep] if number not in stay] if keep is not None else []
