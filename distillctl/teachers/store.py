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
import stat
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillctl.draws import seed_of
from distillctl.errors import MachineError
from distillctl.files import Foreign, check_owner, exists, open_folder, open_to_write, open_trusted
from distillctl.locks import hold_folder, hold_if_there, lock_byte, raw, unlock_byte
from distillctl.state import write_json
from distillctl.teachers.records import Layout, Words, checksums, record_keys

FORMAT_VERSION = 2
ABOUT = "cache.json"
AROUND = 2  # words of a record besides its payload: the mark of the image before it, the checksum behind
PIECE_BYTES = 2**24  # of records that are looked at together
SPARE = 512 * 2**20  # bytes of the disk that records leave free: checkpoints may lie there too
PATIENCE_S = 10.0
WAY_OUT = "set teacher.cache.dir=<a folder that can be written>, or teacher.cache.mode=off"
TRUST = "teacher.cache.trust_group=true believes what others have written there"
NO_LIMIT = 2**62  # bytes: records are mapped, and need not fit into memory

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
    everybody: whether what other users wrote is believed.
    """

    def __init__(
        self,
        folder: Path,
        secret: str,
        layout: Layout,
        rows: int,
        warn: Callable[[str], None],
        writes: bool = True,
        everybody: bool = False,
    ):
        self.folder, self.layout, self.rows, self.warn, self.writes, self.everybody = folder, layout, rows, warn, writes, everybody
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
        there = len(self.shard(view)[1])  # however many rows it should have
        for start in range(0, there, piece):
            rows = np.arange(start, min(start + piece, there))
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
                file = self.open_view(view)
                if os.fstat(file.fileno()).st_size < self.view_bytes:
                    os.ftruncate(file.fileno(), self.view_bytes)  # a hole: it takes no room, and is read as zeros
                lacking = self.view_bytes - os.fstat(file.fileno()).st_blocks * 512
                if lacking > 0 and lacking + SPARE > shutil.disk_usage(self.folder).free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file, self.mapped(file)
            except OSError as error:
                self.give_up(error)
        try:
            return None, self.mapped(self.open_view(view))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self.tell(f"{self.file(view)}: not read ({error.strerror})")
            return None, np.empty((0, self.size), np.uint32)

    def open_view(self, view: int) -> FileIO:
        """The file of a view, to write or to read as the store may. Never through a link, and of a user that is trusted. Raises OSError."""
        name, place = self.file(view).name, open_folder(self.folder, links=False)
        try:
            check_owner(os.fstat(place), self.everybody)
            if not self.writes:
                return raw(open_trusted(name, self.everybody, NO_LIMIT, place))
            file = FileIO(open_to_write(name, os.O_RDWR, place), "r+")
        finally:
            os.close(place)
        check_owner(os.fstat(file.fileno()), self.everybody)
        return file

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


def open_store(
    root: Path, parts: Parts, layout: Layout, rows: int, warn: Callable[[str], None], writes: bool = True, everybody: bool = False
) -> Store:
    """The store that `parts` name, made where it is new and may be written; held, so that nobody prunes it meanwhile.

    What can be read and not written is read: its `writes` is False then. Raises MachineError where it cannot be made, or is another
    user's and not everybody is trusted.
    """
    folder = folder_of(root, parts)
    store = Store(folder, fingerprint_of(parts), layout, rows, warn, writes, everybody)
    try:
        if exists(folder):
            check_folder(folder, everybody)
        store.lock = hold_folder(folder) if writes else hold_if_there(folder)
        check_folder(folder, everybody)
        if not (writes and store.lock.writable()):
            store.writes = False
            return store
        if not exists(folder / ABOUT):
            write_json(folder / ABOUT, {"format_version": FORMAT_VERSION, "parts": parts}, links=False)
        os.utime(folder / ABOUT, follow_symlinks=False)
    except Foreign as error:
        raise MachineError(f"{folder}: {error.strerror}: {TRUST}; else {WAY_OUT}") from None
    except OSError as error:
        if writes and not readable(folder, error):
            raise MachineError(f"{folder}: {error.strerror}; {WAY_OUT}") from None
        store.writes = False
    return store


def check_folder(folder: Path, everybody: bool) -> None:
    """Raises OSError where it is none of its own, or not to be believed."""
    info = os.stat(folder, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        raise OSError(errno.ENOTDIR, "a symbolic link, or no folder")
    check_owner(info, everybody)


def readable(folder: Path, error: OSError) -> bool:
    """Whether an error stands in the way of writing alone."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and os.access(folder, os.R_OK | os.X_OK)
