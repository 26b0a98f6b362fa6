"""Keep records of answers in files: one a view, mapped into memory, filled by any number of processes at once.

A record is believed where its checksum is right, and nothing else decides: a record that is half written, damaged, moved or of another
cache is as good as none. So records need no lock; a claim on one saves work, and nothing relies on it. Reading goes through the mapping
and writing does not, as a full disk must be an error and no signal.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillctl.draws import seed_of
from distillctl.errors import MachineError
from distillctl.locks import claim_folder, hold_folder, lock_byte, open_lock, unlock_byte
from distillctl.state import write_json
from distillctl.teachers.records import Layout, Words, by_name, checksums, record_keys

FORMAT_VERSION = 2
ABOUT = "cache.json"
AROUND = 2  # words of a record besides its payload: the mark of the image before it, the checksum behind
PIECE_BYTES = 2**24  # of records that are looked at together
SPARE = 512 * 2**20  # bytes of the disk that records leave free: checkpoints may lie there too
PATIENCE_S = 10.0
WAY_OUT = "set teacher.cache.dir=<a folder that can be written>, or teacher.cache.mode=off"

Parts = Mapping[str, Any]


def fingerprint_of(parts: Parts) -> str:
    """SHA-256 over everything that decides an answer, as JSON in a fixed order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def record_bytes(layout: Layout) -> int:
    """Of a record on the disk."""
    return (layout.words + AROUND) * 4


def folder_of(root: Path, parts: Parts) -> Path:
    return root / fingerprint_of(parts)[:32]


class Store:
    """The records of one teacher's answers to the views of one split. It says what goes wrong by `warn`, once, and goes on without.

    rows: how many samples the split has; a record's place in its file is its sample's row. writes: whether it may change anything.
    """

    def __init__(self, folder: Path, secret: str, layout: Layout, rows: int, warn: Callable[[str], None], writes: bool = True):
        self.folder, self.layout, self.rows, self.warn, self.writes = folder, layout, rows, warn, writes
        self.size = record_bytes(layout) // 4
        self.keys = record_keys(seed_of(secret), layout.words + 1)
        self.lock: FileIO | None = None
        self.current: tuple[int, FileIO | None, Words] | None = None
        self.told: set[str] = set()

    @property
    def view_bytes(self) -> int:
        return self.rows * self.size * 4

    def read(self, view: int, rows: NDArray[np.int64], marks: Words) -> tuple[Words, NDArray[np.bool_]]:
        """Payloads [B, W] of these rows' images, and which of them are there, bool [B]; what is not is nonsense."""
        records = self.records(view, rows)
        whole, damaged = self.judged(records, view, rows)
        there = whole & (records[:, 0] == marks)
        if damaged.any():
            self.tell(f"{self.file(view)}: damaged records (checksum mismatch) are not used")
        if not there[whole].all():
            self.tell(f"{self.file(view)}: holds answers to other images than these; they are not used")
        return records[:, 1:-1], there

    def write(self, view: int, rows: NDArray[np.int64], marks: Words, payloads: Words) -> None:
        """Keep answers. Each record is one write: whoever reads it half done sees a wrong checksum."""
        if not self.writes:
            return
        records = np.empty((len(rows), self.size), np.uint32)
        records[:, 0], records[:, 1:-1] = marks, payloads
        records[:, -1] = checksums(records[:, :-1], view, rows, self.keys)
        try:
            file = self.shard(view)[0]
            if file is None:  # said while it was opened
                return
            for row, record in zip(rows.tolist(), records, strict=True):
                if os.pwrite(file.fileno(), record.tobytes(), row * self.size * 4) != self.size * 4:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.give_up(error)

    @contextlib.contextmanager
    def claimed(self, view: int, row: int) -> Iterator[None]:
        """Hold a record's place while it is asked for: who misses the same one, as a job of the same sweep at the same step, waits and finds it.

        Not for long, as the holder may be stopped: an answer that is asked for twice does no harm.
        """
        file = self.shard(view)[0]
        mine = file is not None and lock_byte(file, row, PATIENCE_S)
        try:
            yield
        finally:
            if mine and file is not None:
                unlock_byte(file, row)

    def records(self, view: int, rows: NDArray[np.int64]) -> Words:
        """uint32 [B, 1 + W + 1]; zeros where the file ends before."""
        mapped = self.shard(view)[1]
        if len(mapped) == self.rows:
            return mapped[rows]
        found = np.zeros((len(rows), self.size), np.uint32)
        inside = rows < len(mapped)
        found[inside] = mapped[rows[inside]]
        return found

    def judged(self, records: Words, view: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which records are whole, and which were begun and are not."""
        begun = records[:, -1] != 0
        whole = begun & (records[:, -1] == checksums(records[:, :-1], view, rows, self.keys))
        return whole, begun & ~whole

    def inspected(self, view: int) -> tuple[NDArray[np.bool_], int]:
        """Of a view: which records are whole, bool [rows], and how many are damaged. Reads its whole file."""
        whole, damaged = np.zeros(self.rows, np.bool_), 0
        piece = max(1, PIECE_BYTES // (self.size * 4))
        for start in range(0, self.rows, piece):
            rows = np.arange(start, min(start + piece, self.rows))
            whole[rows], bad = self.judged(self.records(view, rows), view, rows)
            damaged += int(bad.sum())
        return whole, damaged

    def begun(self, view: int) -> NDArray[np.bool_]:
        """Which records of a view were begun, bool [rows]: a quick look that trusts the marker."""
        found = np.zeros(self.rows, np.bool_)
        if self.file(view).exists():
            marked = self.shard(view)[1][:, -1] != 0
            found[: len(marked)] = marked
        return found

    def file(self, view: int) -> Path:
        return self.folder / f"view-{view:05}.bin"

    def shard(self, view: int) -> tuple[FileIO | None, Words]:
        """The view's file, open to write, and its records as they are mapped."""
        if self.current is None or self.current[0] != view:
            self.current = view, *self.open_shard(view)
        return self.current[1:]

    def open_shard(self, view: int) -> tuple[FileIO | None, Words]:
        if self.writes:
            try:
                file = open_lock(self.file(view))
                if os.fstat(file.fileno()).st_size < self.view_bytes:
                    os.ftruncate(file.fileno(), self.view_bytes)  # a hole: it takes no room, and is read as zeros
                lacking = self.view_bytes - os.fstat(file.fileno()).st_blocks * 512
                if lacking > 0 and lacking + SPARE > shutil.disk_usage(self.folder).free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file, self.mapped(file)
            except OSError as error:
                self.give_up(error)
        try:
            return None, self.mapped(FileIO(self.file(view), "r"))
        except OSError:
            return None, np.empty((0, self.size), np.uint32)

    def mapped(self, file: FileIO) -> Words:
        count = min(os.fstat(file.fileno()).st_size // (self.size * 4), self.rows)
        if count == 0:
            return np.empty((0, self.size), np.uint32)
        return np.asarray(np.memmap(file, np.uint32, "r", shape=(count, self.size)))

    def give_up(self, error: OSError) -> None:
        """Write nothing from here on."""
        self.writes, self.current = False, None
        self.tell(f"{self.folder}: {error.strerror}; no more of the teacher's answers are kept, and it is asked for what is not there")

    def tell(self, problem: str) -> None:
        """Once a kind of problem."""
        kind = problem.partition(": ")[2]
        if kind not in self.told:
            self.told.add(kind)
            self.warn(problem)


def open_store(root: Path, parts: Parts, layout: Layout, rows: int, warn: Callable[[str], None], writes: bool = True) -> Store:
    """The store that `parts` name, made where it is new and may be written. Raises MachineError where it cannot be made."""
    folder = folder_of(root, parts)
    store = Store(folder, fingerprint_of(parts), layout, rows, warn, writes)
    if not writes:
        return store
    try:
        store.lock = hold_folder(folder)
        if not (folder / ABOUT).exists():
            write_json(folder / ABOUT, {"format_version": FORMAT_VERSION, "parts": parts})
        os.utime(folder / ABOUT)
    except OSError as error:
        raise MachineError(f"{folder}: {error.strerror}; {WAY_OUT}") from None
    return store


@dataclass(frozen=True)
class Cache:
    """A folder of records as it lies on the disk. parts: None where what it holds cannot be told."""

    folder: Path
    parts: dict[str, Any] | None

    @property
    def writer(self) -> str:
        """The version of distillctl that wrote it, as far as its file tells; anybody may have written that."""
        try:
            version = json.loads((self.folder / ABOUT).read_text())["parts"]["versions"]["distillctl"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return version[:40] if isinstance(version, str) and version.isprintable() else ""

    @property
    def views(self) -> list[int]:
        return sorted(int(file.stem.removeprefix("view-")) for file in self.folder.glob("view-[0-9]*.bin"))

    @property
    def bytes(self) -> int:
        """On the disk: holes take no room."""
        return sum(file.stat().st_blocks * 512 for file in self.folder.glob("view-*.bin"))

    @property
    def idle_days(self) -> float:
        """Since it was last filled from, written to or opened to be."""
        newest = max((file.stat().st_mtime for file in self.folder.iterdir()), default=self.folder.stat().st_mtime)
        return max(0.0, time.time() - newest) / 86400

    def store(self, warn: Callable[[str], None]) -> Store | None:
        """To look at."""
        if self.parts is None:
            return None
        kept = by_name(self.parts["features"])
        layout = Layout(self.parts["teachers"], self.parts["classes"], self.parts["dtype"], self.parts["top_k"], kept)
        return Store(self.folder, fingerprint_of(self.parts), layout, self.parts["samples"], warn, writes=False)

    def remove(self) -> bool:
        """False where a run holds it."""
        try:
            lock = claim_folder(self.folder)
            if lock is None:
                return False
            with lock:
                shutil.rmtree(self.folder)
        except OSError as error:
            raise MachineError(f"{self.folder}: {error.strerror}; remove it by hand") from None
        return True


def caches(root: Path) -> Iterator[Cache]:
    """Every cache below `root`, by name. A folder that is none of ours is passed over."""
    for file in sorted(root.glob(f"*/{ABOUT}")):
        yield Cache(file.parent, read_parts(file))


def read_parts(file: Path) -> dict[str, Any] | None:
    """What cache.json says, if it is whole and of this folder."""
    try:
        content = json.loads(file.read_text())
        parts = content["parts"]
        ours = content["format_version"] == FORMAT_VERSION and folder_of(file.parent.parent, parts) == file.parent
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parts if ours else None


def nearest(root: Path, parts: Parts) -> list[str]:
    """How the cache that is most like `parts` differs, as `name (its value, here ours)`; empty where there is none."""
    found: list[list[str]] = []
    for cache in caches(root):
        if cache.parts is not None:
            found.append(list(differences(cache.parts, parts)))
    return min(found, key=len, default=[])


def differences(theirs: Parts, ours: Parts, prefix: str = "") -> Iterator[str]:
    """Part by part, and within those that both have: `versions.torch (2.14, here 2.15)`."""
    for name in sorted({*theirs, *ours}):
        one, other = theirs.get(name), ours.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and one and other:
            yield from differences(one, other, f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name} ({short(one)}, here {short(other)})"


def short(value: Any) -> str:
    """For people: the beginning is enough to tell two hashes apart."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
