"""List the images of folders: which folder is which part of a set, and what lies in it, by class or without labels."""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillctl.data.image.files import shown
from distillctl.data.image.names import class_name, is_image, left_out
from distillctl.data.names import is_hidden, part_of
from distillctl.errors import DataError


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
    """Which folders are there: {"train", "val", "test"}, {"train", "val"} ..., {"test"}, or {"all"} where root holds the classes themselves.

    They are known by the names that people use, in any case. `said` is how the user named the root, for messages.
    """
    names = _folders(root)
    named = {name: part[0] for name in names if (part := part_of(name))}
    # "train" may also be the class of trains: a class folder holds no folders of its own
    parts = {name: part for name, part in named.items() if has_classes(root / name)}
    if "train" in parts.values():
        return _by_part(root, parts, said)
    if names and len(named) == len(names):
        return _by_part(root, named, said)
    flat = [name for name, part in named.items() if part == "train"]
    if flat and (len(set(named.values())) > 1 or any(part_of(name)[1] for name in flat)):  # type: ignore[index]
        raise DataError(
            f"{said}: {shown(flat[0])} holds no class folders, and beside it lies {_listed(names, but=flat[0])}; "
            f"expected {shown(root)}/{shown(flat[0])}/CLASS/*.jpg, or dataset.labels=false for images without labels"
        )
    return _by_part(root, parts, said) or {"all": root}


def entered(root: Path, said: str, classes: Collection[str] = ()) -> Path:
    """The folder itself, or the one that an archive was unpacked into: the only thing in it, with parts or classes in that.

    `classes` are names that such a folder does not have.
    """
    _check_root(root, said)
    place, names = root, _folders(root)
    while len(names) == 1 and not part_of(names[0]) and class_name(names[0]) not in classes and not _has_images(place):
        place, names = place / names[0], _folders(place / names[0])
    return place if len(names) > 1 or names and part_of(names[0]) else root


def layout_without_labels(root: Path, said: str) -> dict[str, Path]:
    """The same where training needs no labels: "train" is its folder, or root itself where there is none; val and test may be there."""
    return {"train": root, **_by_part(root, {name: part[0] for name in _folders(root) if (part := part_of(name))}, said)}


def _by_part(root: Path, named: Mapping[str, str], said: str) -> dict[str, Path]:
    """The folder of each part: of several the one with the most usual name, and an error where no name is more usual than another."""
    found: dict[str, Path] = {}
    for part in ("train", "val", "test"):
        ranked = sorted((part_of(name)[1], name) for name, its in named.items() if its == part)  # type: ignore[index]
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            raise DataError(f"{said}: {shown(ranked[0][1])} and {shown(ranked[1][1])} are both {part} folders; rename or remove one")
        if ranked:
            found[part] = _doubled(root / ranked[0][1], part)
    return found


def _doubled(folder: Path, part: str) -> Path:
    """The folder, or the one of the same meaning that is all it holds: training_set/training_set/CLASS."""
    names = _folders(folder)
    same = len(names) == 1 and (part_of(names[0]) or ("",))[0] == part and has_classes(folder / names[0])
    return folder / names[0] if same else folder


def listing(folder: Path, root: Path, said: str, gone: Collection[Path] = ()) -> Listing:
    """All images below folder/CLASS. A class without images is an error; names and links that lead nowhere are counted.

    gone: files that are listed at their places even if they are no longer there.
    """
    seen: Counter[str] = Counter()
    entries = [entry for entry in _entries(folder, seen) if _is_folder(entry) or not _other(entry, seen)]
    loose = sum(not _is_folder(entry) for entry in entries)
    seen["images outside the class folders were left out"] += loose
    classes = sorted((entry for entry in entries if _is_folder(entry)), key=lambda entry: (class_name(entry.name), entry.name))
    names = tuple(dict.fromkeys(class_name(entry.name) for entry in classes))
    seen["folders have the name of another class in other Unicode characters, and were read as that class"] += len(classes) - len(names)
    # The class folders count as visited before any is read: a link from one into another must not move its images.
    visited = {_identity(entry.path) for entry in classes}
    inside = os.path.realpath(folder) + os.sep
    found = Listing(folder, names, [], [], [], {}, seen)
    own: set[tuple[int, int]] = set()
    for entry in classes:
        if _identity(entry.path) in own:
            raise DataError(f"{shown(entry.path)} is a link to the folder of another class; delete one of them")
        own.add(_identity(entry.path))
        _add_class(found, entry, visited, inside, gone)
    if not found.files:
        expected = "train" if folder == root else folder.name
        way_out = ", or dataset.labels=false for images without labels" if loose else ""
        raise DataError(f"{said}: no images under {shown(folder)}; expected {shown(root)}/{expected}/CLASS/*.jpg{_seen_in(seen)}{way_out}")
    return found


def _add_class(found: Listing, entry: os.DirEntry[str], visited: set[tuple[int, int]], inside: str, gone: Collection[Path]) -> None:
    """The images of a class folder, at the end of a listing."""
    seen: Counter[str] = Counter()
    before = len(found.files)
    for path, size, reason in _with_gone(_walk(entry.path, visited, inside, seen), entry.path, gone):
        if reason:
            found.broken[len(found.files)] = reason
        found.files.append(Path(path))
        found.sizes.append(size)
        found.labels.append(class_name(entry.name))
    if len(found.files) == before:
        raise DataError(f"{shown(entry.path)}: no images in this class folder{_seen_in(seen)}; delete it or fill it")
    found.seen.update(seen)


def _seen_in(seen: Counter[str]) -> str:
    """What lay there instead of images, in brackets."""
    told = [f"{count} {what}" for what, count in sorted(seen.items()) if count]
    return f" ({'; '.join(told)})" if told else ""


def images_below(folder: Path) -> tuple[list[Path], str]:
    """Every image below a folder, in a stable order, as data sets find them: nothing hidden, no folder twice. And what lay there besides."""
    seen: Counter[str] = Counter()
    found = sorted(_walk(str(folder), {_identity(str(folder))}, os.path.realpath(folder) + os.sep, seen))
    return [Path(path) for path, _, _ in found], _seen_in(seen)


def listing_without_labels(folder: Path, others: Sequence[Path], said: str, gone: Collection[Path] = ()) -> Listing:
    """All images below a folder, whatever the folders in it are called; `others` are those of other splits, which may lie in it too."""
    seen: Counter[str] = Counter()
    visited = {_identity(str(path)) for path in (folder, *others)}
    inside = os.path.realpath(folder) + os.sep
    left_to_others = {str(path) for path in others}
    gone = [path for path in gone if not any(path.is_relative_to(other) for other in others)]
    found = _with_gone(_walk(str(folder), visited, inside, seen, left_to_others), str(folder), gone)
    if not found:
        raise DataError(f"{said}: no images under {shown(folder)}; expected {shown(folder)}/*.jpg")
    broken = {position: reason for position, (_, _, reason) in enumerate(found) if reason}
    files, sizes = [Path(path) for path, _, _ in found], [size for _, size, _ in found]
    return Listing(folder, (), files, sizes, [], broken, seen)


def count(folder: Path, enough: int) -> int:
    """How many images lie below a folder by their names, or `enough`, where there are that many."""
    found = _walk(str(folder), {_identity(str(folder))}, os.path.realpath(folder) + os.sep, Counter())
    return sum(1 for _ in itertools.islice(found, enough))


def has_classes(folder: Path) -> bool:
    """Whether there are folders in it, which then are classes."""
    return bool(_folders(folder))


def unused(root: Path, found: Mapping[str, Path]) -> list[str]:
    """Visible folders beside train, val and test, which nothing reads."""
    if root in found.values():
        return []
    used = {path.relative_to(root).parts[0] for path in found.values()}
    return [shown(name) for name in _folders(root) if name not in used]


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder, Counter()) if _is_folder(entry)]


def _has_images(folder: Path) -> bool:
    return any(is_image(entry.name) and not _is_folder(entry) for entry in _entries(folder, Counter()))


def _listed(names: Sequence[str], but: str) -> str:
    return ", ".join(shown(name) for name in names if name != but)


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


def _with_gone(found: Iterable[tuple[str, int, str]], folder: str, gone: Collection[Path]) -> list[tuple[str, int, str]]:
    """What was found below a folder, in order, and what once lay there among it."""
    there = {path: (path, size, reason) for path, size, reason in found}
    once = {str(path): (str(path), 0, "gone") for path in gone if path.is_relative_to(folder)}
    return sorted((once | there).values())


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
    visible = [entry for entry in found if not is_hidden(entry.name)]
    seen["hidden files or folders were left out"] += len(found) - len(visible)
    return visible


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _other(entry: os.DirEntry[str], seen: Counter[str]) -> bool:
    if is_image(entry.name):
        return False
    seen[left_out(entry.name)] += 1
    return True


def _identity(path: str) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_dev, info.st_ino
