"""The model that is deployed, those before it, and the history that says which is when; put back by `rollback`. No torch here.

`deployed/student.safetensors` is one file, with its record inside, replaced by one rename: who opens it has an old model or a new one, whole.
`versions/NNNN` has each model that was ever deployed, with its record and loading script beside it. `deployed/history.json` is the truth: it is
written first, and what is deployed is then made what its last line says, again and again until it is so (`settle`). So a crash between the
two is mended by whoever comes next. A lock keeps a run and a rollback apart.
"""

from __future__ import annotations

import contextlib
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
        """Make the deployed file what the history says. Under the lock; changes nothing where it is so."""
        number = self.current
        if number is None:
            return
        line = next(line for line in reversed(self.history()) if line.get("version") == number and line["what"] != "refused")
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
    """The newest version below the deployed one: rolled back twice is two back."""
    now = current(history)
    return max(
        (line["version"] for line in history if line["what"] == "released" and now is not None and line["version"] < now), default=None
    )
