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
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO

from distillctl.files import open_file, open_folder, open_to_write

NAME = ".lock"
TRIES = 10
POLL_S = 0.001


def open_lock(path: str | Path, at: int | None = None) -> FileIO:
    """A file to lock, or to write in at any place; made where there is none, for whom the umask lets. Raises OSError."""
    return FileIO(open_to_write(path, os.O_RDWR, at), "r+")


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
    """Make a folder, and hold it as one of its users until the file is closed or the process dies.

    Where it can be read and not written, it is held all the same, by a file that is not `writable()`. Raises OSError, also of a link.
    """
    for _ in range(TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return hold_if_there(folder)
        except FileNotFoundError:  # removed in between
            continue
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def hold_if_there(folder: Path) -> FileIO:
    """As `hold_folder`, but nothing is made. Raises FileNotFoundError."""
    place = open_folder(folder, links=False)
    try:
        lock = open_shared(place)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(NAME, dir_fd=place)):
            return lock
        lock.close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    finally:
        os.close(place)


def open_shared(place: int) -> FileIO:
    """The lock of an opened folder, to write or where that is not allowed to read. Raises OSError."""
    try:
        return open_lock(NAME, place)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        try:
            return raw(open_file(NAME, links=False, at=place))
        except FileNotFoundError:
            raise error from None


def raw(file: BufferedReader) -> FileIO:
    found = file.detach()
    assert isinstance(found, FileIO)
    return found


def claim_folder(folder: Path) -> FileIO | None:
    """Have a folder alone, as to remove it; None where it has users. Raises OSError."""
    place = open_folder(folder, links=False)
    try:
        lock = open_lock(NAME, place)
    finally:
        os.close(place)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:
        lock.close()
        raise
    return lock
