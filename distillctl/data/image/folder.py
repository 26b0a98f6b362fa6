"""List the images of folders: named by class, or of images without labels."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillctl.data.image.files import SUFFIXES, shown
from distillctl.errors import DataError

PARTS = ("train", "val", "test")
HIDDEN = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})


@dataclass(frozen=True)
class Listing:
    """The image files below one folder, sorted by class and path, and what else lay there.

    classes:              none where the images have no labels
    files, sizes, labels: path, bytes and class name of each image
    broken:               position and reason of the files of which it is known already that they cannot be read
    seen:                 how many hidden names, other files, links ... were met
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[Path]
    sizes: list[int]
    labels: list[str]
    broken: dict[int, str]
    seen: Counter[str] = field(default_factory=Counter)


def layout(root: Path, said: str) -> dict[str, Path]:
    """Which folders are there: {"train", "val", "test"}, {"train", "val"} ..., or {"all"} where root holds the classes themselves.

    `said` is how the user named the root, for messages.
    """
    _check_root(root, said)
    names = {entry.name for entry in _entries(root, Counter()) if _is_folder(entry)}
    parts = [part for part in PARTS if part in names]
    if not names <= set(parts):  # "train" may also be the class of trains: a class folder holds no folders of its own
        parts = [part for part in parts if has_classes(root / part)]
    found: dict[str, Path] = {part: root / part for part in parts}
    if found and "train" not in found:
        raise DataError(f"{said}: has {' and '.join(found)} but no train folder; expected {shown(root)}/train/CLASS/*.jpg")
    return found or {"all": root}


def layout_without_labels(root: Path, said: str) -> dict[str, Path]:
    """The same where training needs no labels: "train" is root/train, or root itself where there is none; val and test may be there."""
    _check_root(root, said)
    return {"train": root, **{part: root / part for part in PARTS if (root / part).is_dir()}}


def listing(folder: Path, root: Path, said: str) -> Listing:
    """All images below folder/CLASS. A class without images is an error; names and links that lead nowhere are counted."""
    seen: Counter[str] = Counter()
    entries = [entry for entry in _entries(folder, seen) if _is_folder(entry) or not _other(entry, seen)]
    loose = sum(not _is_folder(entry) for entry in entries)
    seen["images outside the class folders were left out"] += loose
    classes = [entry for entry in entries if _is_folder(entry)]
    # The class folders count as visited before any is read: a link from one into another must not move its images.
    visited = {_identity(entry.path) for entry in classes}
    inside = os.path.realpath(folder) + os.sep
    files: list[Path] = []
    sizes: list[int] = []
    labels: list[str] = []
    broken: dict[int, str] = {}
    own: set[tuple[int, int]] = set()
    for entry in classes:
        before = len(files)
        if _identity(entry.path) in own:
            raise DataError(f"{shown(entry.path)} is a link to the folder of another class; delete one of them")
        own.add(_identity(entry.path))
        for path, size, reason in sorted(_walk(entry.path, visited, inside, seen)):
            if reason:
                broken[len(files)] = reason
            files.append(Path(path))
            sizes.append(size)
            labels.append(entry.name)
        if len(files) == before:
            raise DataError(f"{shown(entry.path)}: no images in this class folder; delete it or fill it")
    if not files:
        expected = "train" if folder == root else folder.name
        way_out = ", or dataset.labels=false for images without labels" if loose else ""
        raise DataError(f"{said}: no images under {shown(folder)}; expected {shown(root)}/{expected}/CLASS/*.jpg{way_out}")
    return Listing(folder, tuple(entry.name for entry in classes), files, sizes, labels, broken, seen)


def listing_without_labels(folder: Path, others: Sequence[Path], said: str) -> Listing:
    """All images below a folder, whatever the folders in it are called; `others` are those of other splits, which may lie in it too."""
    seen: Counter[str] = Counter()
    visited = {_identity(str(path)) for path in (folder, *others)}
    inside = os.path.realpath(folder) + os.sep
    found = sorted(_walk(str(folder), visited, inside, seen, leave_out={str(path) for path in others}))
    if not found:
        raise DataError(f"{said}: no images under {shown(folder)}; expected {shown(folder)}/*.jpg")
    broken = {position: reason for position, (_, _, reason) in enumerate(found) if reason}
    files, sizes = [Path(path) for path, _, _ in found], [size for _, size, _ in found]
    return Listing(folder, (), files, sizes, [], broken, seen)


def has_classes(folder: Path) -> bool:
    """Whether there are folders in it, which then are classes."""
    return any(map(_is_folder, _entries(folder, Counter())))


def unused(root: Path, found: dict[str, Path]) -> list[str]:
    """Visible folders beside train, val and test, which nothing reads."""
    if root in found.values():
        return []
    return [shown(entry.name) for entry in _entries(root, Counter()) if _is_folder(entry) and entry.name not in found]


def _check_root(root: Path, said: str) -> None:
    if not root.exists():
        raise DataError(f"{said}: no such folder")
    if not root.is_dir():
        raise DataError(f"{said}: not a folder")


def _walk(
    folder: str, visited: set[tuple[int, int]], inside: str, seen: Counter[str], leave_out: Collection[str] = ()
) -> Iterator[tuple[str, int, str]]:
    """(path, bytes, reason why it is broken or "") of the image files below a folder; each real folder is entered once."""
    waiting = [folder]
    while waiting:
        for entry in _entries(waiting.pop(), seen):
            if entry.path in leave_out:
                continue
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                seen["links that lead out of the folder were followed"] += 1
            if _is_folder(entry):
                if _identity(entry.path) in visited:
                    seen["links to folders already read were left out"] += 1
                else:
                    visited.add(_identity(entry.path))
                    waiting.append(entry.path)
            elif not _other(entry, seen):
                yield entry.path, *_size(entry.path)


def _size(path: str) -> tuple[int, str]:
    try:
        info = os.stat(path)
    except OSError as problem:
        return 0, (problem.strerror or str(problem)).lower()
    if not stat.S_ISREG(info.st_mode):
        return 0, "not a regular file"
    return info.st_size, "" if info.st_size else "0 bytes"


def _entries(folder: str | Path, seen: Counter[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted, without hidden names, which are counted."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(f"{shown(folder)}: {(problem.strerror or str(problem)).lower()}") from None
    visible = [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in HIDDEN]
    seen["hidden files or folders were left out"] += len(found) - len(visible)
    return visible


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _other(entry: os.DirEntry[str], seen: Counter[str]) -> bool:
    if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
        return False
    seen["files that are not images were left out"] += 1
    return True


def _identity(path: str) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_dev, info.st_ino
