"""What came to a watched folder, in the order in which it was accepted: a line a batch, on the disk before any of it is learnt."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from distillctl.entries import Malformed, integer
from distillctl.errors import CheckpointError, MachineError
from distillctl.files import open_folder, open_to_write, parse_json, read_bytes
from distillctl.runs.stream.source import Found

FILE = "journal.jsonl"


class Journal:
    """An append-only file. A line that a crash cut off was never learnt: it is taken away, and its files are accepted again."""

    def __init__(self, file: Path, root: Path):
        self.file, self.root = file, root
        self.batches: list[tuple[int, list[Found]]] = []
        self.length = 0
        self.read()

    def read(self) -> None:
        try:
            content = read_bytes(self.file, links=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CheckpointError(f"{self.file}: {error.strerror}") from None
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self.take(line)
            except (ValueError, Malformed) as error:
                raise CheckpointError(f"{self.file}: line {number} is no batch of a stream ({error}); start a new run") from None
        if len(whole) < len(content):
            self.cut(len(whole))

    def take(self, line: bytes) -> None:
        content = parse_json(line)
        if not isinstance(content, dict) or not isinstance(content.get("samples"), list) or not content["samples"]:
            raise Malformed("no list of samples")
        first = integer(content, "first", low=0)
        if first != self.length:
            raise Malformed(f"it begins at {first}, and {self.length} samples came before")
        self.note(first, [self.sample(item) for item in content["samples"]])

    def sample(self, item: Any) -> Found:
        if not isinstance(item, list) or len(item) != 3 or not all(isinstance(part, str) for part in (item[0], item[2])):
            raise Malformed("a sample is [name, class, time]")
        name, label, time = item
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or not isinstance(label, (str, type(None))):
            raise Malformed(f"{name[:80]!r} leads out of the folder")
        return Found(name, self.root / name, label, time)

    def note(self, first: int, samples: list[Found]) -> None:
        self.batches.append((first, samples))
        self.length += len(samples)

    def cut(self, size: int) -> None:
        handle = open_to_write(self.file, os.O_WRONLY)
        try:
            os.ftruncate(handle, size)
            os.fsync(handle)
        finally:
            os.close(handle)

    def append(self, samples: Sequence[Found]) -> None:
        """Returns once the batch is on the disk. Raises MachineError, with nothing accepted."""
        new, before = not self.file.exists(), self.file.stat().st_size if self.file.exists() else 0
        line = json.dumps({"first": self.length, "samples": [[item.name, item.label, item.time] for item in samples]}) + "\n"
        try:
            with os.fdopen(open_to_write(self.file, os.O_WRONLY | os.O_APPEND), "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if new:
                folder = open_folder(self.file.parent)
                os.fsync(folder)
                os.close(folder)
        except OSError as error:
            if self.file.exists() and self.file.stat().st_size > before:
                self.cut(before)
            raise MachineError(f"{self.file}: {error.strerror}; nothing of this batch was learnt, mend that and resume") from None
        self.note(self.length, list(samples))

    def from_position(self, first: int) -> list[Found]:
        """The batch that begins there; none where nothing was accepted behind it."""
        return next((samples for begin, samples in reversed(self.batches) if begin == first), [])
