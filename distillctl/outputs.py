"""The run folder: who holds it, what run.json says, and the metrics of each stage."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

from distillctl import __version__, repository
from distillctl.entries import Malformed, entry, integer, mapping, open_mapping, texts
from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.files import check_no_link, check_no_links, open_to_write, read_json
from distillctl.invocation import Invocation, going_on
from distillctl.locks import NAME, lock_file
from distillctl.state import NewerFormat, finite, write_json
from distillctl.terminal import complain

RUN_FILE = "run.json"
FORMAT_VERSION = 1  # of run.json
LEAST_FREE_MIB = 64


class RunFolder:
    """One run's folder, held by one process at a time. Only rank 0 has one."""

    def __init__(self, path: Path, command: str, seed: int, asked: Invocation | None = None, new: bool = False):
        """Nothing is written, and no config of another run replaced, before the lock is ours. `new`: no run may be there yet."""
        self.path = path
        self.lock = take(path)
        first = not os.path.lexists(path / RUN_FILE)
        if new and not first:
            raise holds_a_run(path, command)
        check_no_links(path)
        sweep(path)
        self.record: dict[str, Any] = first_record(command, seed) if first else read_run(path)
        check_room(path)
        if asked is not None:
            asked.write(path, first)
        self.record |= {"status": "running", "error": None, "exit_code": None, "start": asked.mark if asked else None}
        if asked is not None and first:
            self.record["job"] = asked.job
        self.write()

    def write(self) -> None:
        write_json(self.path / RUN_FILE, finite(self.record))

    def stage(self, name: str) -> Path:
        """The folder of a stage, made if it is new."""
        folder = self.path / name
        check_no_link(folder)
        folder.mkdir(exist_ok=True)
        sweep(folder)
        return folder

    def finish_stage(self, name: str, result: Mapping[str, Any]) -> None:
        """Record a stage's result: from now on a resumed run skips it."""
        self.record["stages"][name] = dict(result)
        self.write()

    def finish(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", finite(summary))
        self.record |= {"status": "done", "exit_code": 0, "finished": now()}
        self.write()


def take(folder: Path) -> IO[str]:
    """Make a folder and lock it, until the file is closed. Raises MachineError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(open_to_write(folder / NAME, os.O_RDWR | os.O_APPEND), "a+")
    except OSError as error:
        raise MachineError(f"{folder}: {error.strerror}; set hydra.run.dir=<a folder that can be written>") from None
    try:
        mine = lock_file(lock)
    except OSError:  # a file system without locks
        mine = False
    if not mine:
        lock.seek(0)
        raise MachineError(f"{folder} is in use by {lock.read(200).strip() or 'another process'}; wait for it or stop it") from None
    with contextlib.suppress(OSError):  # a full disk: the lock is ours all the same
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%H:%M:%S')}\n")
        lock.flush()
    return lock


@contextlib.contextmanager
def held(folder: Path, asked: Invocation) -> Iterator[None]:
    """A folder for what is no run, ours alone while it is written. Raises ConfigError where a run is there, whose config stays what it is."""
    with take(folder):
        if os.path.lexists(folder / RUN_FILE):
            raise holds_a_run(folder, str(read_run(folder).get("command")))
        asked.write(folder, first=True)
        yield


def holds_a_run(folder: Path, command: str) -> ConfigError:
    return ConfigError(
        f"hydra.run.dir={folder}: this folder holds a run already; choose another, or go on with: {going_on(command, folder)}"
    )


def check_room(folder: Path) -> None:
    """Before anything is written, so that nothing is written by half."""
    free = shutil.disk_usage(folder).free / 2**20
    if free < LEAST_FREE_MIB:
        raise MachineError(f"{folder}: {free:.0f} MiB free, at least {LEAST_FREE_MIB} are needed; free some space or set hydra.run.dir")


def sweep(folder: Path) -> None:
    """Remove what a process that was killed had begun to write. The folder has to be ours."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run folder. Raises CheckpointError where there is none that can be read."""
    try:
        content = read_json(folder / RUN_FILE)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no run folder (it has no {RUN_FILE})") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / RUN_FILE}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / RUN_FILE}: not the record of a run")
    version, writer = content.get("format_version", FORMAT_VERSION), content.get("versions")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        known = writer.get("distillctl") if isinstance(writer, dict) else None
        raise NewerFormat(
            f"{folder / RUN_FILE}: written by distillctl {str(known or '(unknown)')[:40]} in format {str(version)[:20]}, "
            f"this one reads format {FORMAT_VERSION}; upgrade"
        )
    try:
        check_entries(content)
    except Malformed as error:
        raise CheckpointError(f"{folder / RUN_FILE}: not the record of a run ({error})") from None
    return content


def check_entries(content: Mapping[str, Any]) -> None:
    """Those that are read again. Raises Malformed."""
    for name in ("command", "status", "started", "finished", "error"):
        entry(content, name, str, "a text", None)
    integer(content, "exit_code", None)
    for name in open_mapping(content, "stages"):
        check_stage(mapping(content["stages"], name, inside="stages."), f"stages.{name}.")
    for name in mapping(content, "keys", {}):
        texts(content["keys"], name, inside="keys.")
    open_mapping(content, "versions", {})


def check_stage(content: Mapping[str, Any], inside: str) -> None:
    """Of the result of a stage what is computed with; the stages of earlier versions have none of it. Raises Malformed."""
    if "steps" in content or content.get("out_of_time"):
        integer(content, "steps", low=0, inside=inside)
    if "seconds" in content and not entry(content, "seconds", (int, float), "a number", inside=inside) >= 0:
        raise Malformed(f"{inside}seconds has to be 0 or more")


def record_failure(folder: Path, reason: str, exit_code: int, start: str | None = None) -> None:
    """Write into run.json why a run ended, if it is that which `start` marks, and no other process runs there.

    A full disk must not hide the first reason.
    """
    try:
        with os.fdopen(open_to_write(folder / NAME, os.O_WRONLY | os.O_APPEND), "a") as lock:
            if not lock_file(lock):
                return
            content = read_run(folder)
            if content.get("status") != "running" or content.get("start") != start:
                return  # what an earlier attempt left is not ours to change
            content |= {"status": "interrupted" if exit_code > 128 else "failed", "error": reason, "exit_code": exit_code}
            write_json(folder / RUN_FILE, content)
    except (OSError, CheckpointError, MachineError):
        pass


def first_record(command: str, seed: int) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "command": command,
        "arguments": sys.argv[1:],
        "seed": seed,
        "started": now(),
        "versions": versions(),
        "machine": platform.platform(),
        "git": repository.commit(Path.cwd()),
        "data": None,
        "teacher": None,
        "stages": {},
    }


@cache
def sources(package: Path) -> str:
    """SHA-256 of the Python files in a folder, or of one: in a checkout code changes under the same version."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")) if package.is_dir() else [package]:
        digest.update(f"{file.relative_to(package)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of ourselves and of everything that can change a number."""
    names = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "safetensors")
    return {"distillctl": __version__, "python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class MetricsLog:
    """metrics.jsonl of a stage. A full disk costs lines, not the run."""

    def __init__(self, path: Path):
        self.path = path
        self.broken = False

    def write(self, line: Mapping[str, Any]) -> None:
        if self.broken:
            return
        whole = self.size()
        try:
            with os.fdopen(open_to_write(self.path, os.O_WRONLY | os.O_APPEND), "a") as file:
                file.write(json.dumps(finite(line)) + "\n")
        except OSError as error:
            self.broken = True
            with contextlib.suppress(CheckpointError):
                self.cut(whole)  # half a line would spoil the next
            complain(f"warning: {self.path}: {error.strerror}; going on without this log")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget what was logged after a checkpoint: the steps since then will be taken again."""
        if self.path.exists() and self.path.stat().st_size > size:
            try:
                handle = open_to_write(self.path, os.O_WRONLY)
            except OSError as error:
                raise CheckpointError(f"{self.path}: {error.strerror}") from None
            try:
                os.ftruncate(handle, size)
            finally:
                os.close(handle)
