"""Open files that anybody may have made: what is no file is refused before it is read, and nothing is written through a link."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from distillctl.errors import CheckpointError

TEXT_LIMIT = 2**24  # bytes of JSON or YAML; parsed it takes some thirty times as much memory
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link, which is not followed here",
}

Name = str | os.PathLike[str]


def open_file(path: Name, limit: int | None = None, links: bool = True, at: int | None = None) -> BufferedReader:
    """A file to read. limit: bytes that it may have, None for what the machine's memory holds. links: whether it may be a link to one,
    as where nobody else writes. at: the handle of the folder that it lies in.

    Raises OSError, whose `strerror` is for people: of a pipe, a socket or a device before anything is read of it, which may never end.
    """
    try:
        check_regular(os.stat(path, dir_fd=at, follow_symlinks=links))  # to open a device can already do something
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if links else os.O_NOFOLLOW)
        file = os.fdopen(os.open(path, flags, dir_fd=at), "rb")
    except ValueError:
        raise OSError(errno.EINVAL, "a name with a NUL in it") from None
    try:
        info = os.fstat(file.fileno())
        check_regular(info)
        if info.st_size > (limit or memory_bytes()):
            raise OSError(errno.EFBIG, f"larger than {f'{limit:,} bytes' if limit else 'the memory of this machine'}")
    except OSError:
        file.close()
        raise
    return file


def read_bytes(path: Name, limit: int | None = None, links: bool = True, at: int | None = None) -> bytes:
    """What a file holds, and no more than its size says. Raises OSError."""
    with open_file(path, limit, links, at) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def hash_of(path: Name) -> str:
    """SHA-256 of a file. Raises OSError."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def read_text(path: Name, limit: int = TEXT_LIMIT) -> str:
    """Raises OSError, and ValueError for what is no UTF-8."""
    return read_bytes(path, limit).decode()


def read_json(path: Name, links: bool = True, at: int | None = None) -> Any:
    """Raises OSError, and ValueError for what is no JSON: too deep, or with numbers that are none."""
    return parse_json(read_bytes(path, TEXT_LIMIT, links, at))


def parse_json(content: str | bytes) -> Any:
    """Raises ValueError, as `read_json` does."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def open_to_write(path: Name, flags: int = 0, at: int | None = None) -> int:
    """The handle of a file of ours, made where there is none, and readable by whom the umask lets. Raises OSError for what is no file, or a link of
    either kind: what is written there would change elsewhere."""
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        handle = os.open(path, flags, 0o666, dir_fd=at)
    except OSError as error:
        if error.errno == errno.ELOOP:  # "too many levels", where it is one
            raise OSError(errno.ELOOP, KINDS[stat.S_IFLNK]) from None
        raise
    try:
        info = os.fstat(handle)
        check_regular(info)
        if info.st_nlink > 1:
            raise OSError(errno.EMLINK, "has another name, by a hard link, and would change there too; copy the folder")
    except OSError:
        os.close(handle)
        raise
    return handle


def open_folder(path: Name, links: bool = True) -> int:
    """The handle of a folder, for files to be opened `at` it. Raises OSError where there is none, or it is a link and may not be one."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))


def check_no_links(folder: Path) -> None:
    """Refuse a folder of ours, as it came from somebody, whose files or folders are links: what is written there would land elsewhere.

    What W&B keeps is its own, and has links. Raises CheckpointError.
    """
    try:
        inside = [entry for entry in os.scandir(folder) if entry.name != "wandb"]
        inside += [entry for part in inside if part.is_dir(follow_symlinks=False) for entry in os.scandir(part)]
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry in inside:
        check_no_link(Path(entry.path))


def check_no_link(folder: Path) -> None:
    """Refuse to write into a folder that is a link to one, as in a folder that came from somebody. Raises CheckpointError."""
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: a symbolic link, through which no run writes; put what it stands for there")


def check_regular(info: os.stat_result) -> None:
    """Raises OSError that says what it is instead."""
    if not stat.S_ISREG(info.st_mode):
        what = KINDS.get(stat.S_IFMT(info.st_mode), "something else")
        raise OSError(
            errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.EINVAL, what if "link" in what else f"{what}, not a regular file"
        )


@cache
def memory_bytes() -> int:
    """Of this machine; a file that is read whole has to fit."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def open_trusted(path: Name, everybody: bool, limit: int | None = None, at: int | None = None) -> BufferedReader:
    """A file to read where others may write: of this user, or with `everybody` of anybody, and never through a link. Raises OSError."""
    file = open_file(path, limit, links=False, at=at)
    try:
        check_owner(os.fstat(file.fileno()), everybody)
    except OSError:
        file.close()
        raise
    return file


def read_trusted(path: Name, everybody: bool = False, limit: int | None = None) -> bytes:
    """What such a file holds. Raises OSError."""
    with open_trusted(path, everybody, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def check_owner(info: os.stat_result, everybody: bool) -> None:
    """Raises Foreign, unless a file or folder is ours or everybody's are trusted."""
    if not (everybody or is_ours(info)):
        raise Foreign(errno.EPERM, "another user's, or others may change it")


class Foreign(PermissionError):
    """What somebody else made, or may have changed."""


def is_ours(info: os.stat_result) -> bool:
    """Whether a file or folder is this user's (or root's), and no stranger may change it."""
    shared = stat.S_IWOTH | (0 if _is_private(info.st_gid) else stat.S_IWGRP)
    return info.st_uid in (os.geteuid(), 0) and not info.st_mode & shared


@cache
def _is_private(group: int) -> bool:
    """Whether a group is one user's alone, as many systems give everybody one, with a umask of 002."""
    import grp
    import pwd

    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}


def exists(path: Path) -> bool:
    """Whether there is anything of this name: also a link to nothing, which `Path.exists` denies."""
    return os.path.lexists(path)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")
