"""Locks between processes, of two kinds.

A POSIX record lock on a file, or on one byte of it, is freed when its process dies, however it dies, and data workers do not inherit
it: it says who trains, writes or asks. But it is also freed when its process closes any handle of that file, and a process never
waits for itself. A flock belongs to one opened file, so that several users in one process hold a folder side by side, and many
share it: it says who uses a folder, which may then not be removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from io import FileIO
from pathlib import Path
from typing import IO

NAME = ".lock"
TRIES = 10
POLL_S = 0.001


def open_lock(path: Path) -> FileIO:
    """A file to lock, or to write in at any place; made where there is none."""
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")


def lock_file(file: FileIO | IO[str]) -> bool:
    """A record lock on a file, until it is closed. False where another process has it; OSError where there are no locks."""
    return lock_range(file, 0, 0)


def lock_byte(file: FileIO, place: int, patience_s: float) -> bool:
    """A record lock on one byte, which may lie behind the end. False where another process has it for so long, or there are no locks."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if lock_range(file, place, 1):
                return True
        except OSError:
            return False
        time.sleep(POLL_S)
    return False


def lock_range(file: FileIO | IO[str], start: int, length: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock_byte(file: FileIO, place: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # the file was closed meanwhile
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def hold_folder(folder: Path) -> FileIO:
    """Make a folder, and hold it as one of its users until the file is closed or the process dies. Raises OSError."""
    for _ in range(TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = open_lock(folder / NAME)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / NAME)):
                return lock
        except FileNotFoundError:  # removed in between
            continue
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def claim_folder(folder: Path) -> FileIO | None:
    """Have a folder alone, as to remove it; None where it has users. Raises OSError."""
    lock = open_lock(folder / NAME)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:
        lock.close()
        raise
    return lock
