"""The caches of a folder as they lie on the disk, which anybody may have written: what they hold, how old they are, and away with them."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.entries import Malformed, integer, mapping, text
from distillctl.errors import MachineError
from distillctl.files import read_json
from distillctl.locks import claim_folder
from distillctl.teachers.records import DTYPES, Layout, by_name
from distillctl.teachers.store import ABOUT, FORMAT_VERSION, Parts, Store, fingerprint_of, folder_of

SKEW_S = 3600.0  # between the clocks of machines that share a disk
FIRST_S = 1_700_000_000.0  # no cache is older than this program: a clock that says so is wrong
VIEW = re.compile(r"view-([0-9]{5,9})\.bin")
MOST_ROWS = 2**28
MOST_WORDS = 2**24  # of a record


@dataclass(frozen=True)
class Cache:
    """A folder of records as it lies on the disk. parts: None where what it holds cannot be told."""

    folder: Path
    parts: dict[str, Any] | None

    @property
    def writer(self) -> str:
        """The version of distillctl that wrote it, as far as its file tells; anybody may have written that."""
        try:
            version = read_json(self.folder / ABOUT, links=False)["parts"]["versions"]["distillctl"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return version[:40] if isinstance(version, str) and version.isprintable() else ""

    @property
    def views(self) -> list[int]:
        return sorted(int(found[1]) for file in self.folder.iterdir() if (found := VIEW.fullmatch(file.name)))

    @property
    def bytes(self) -> int:
        """On the disk: holes take no room."""
        return sum(file.lstat().st_blocks * 512 for file in self.folder.glob("view-*.bin"))

    @property
    def newest(self) -> float:
        """When it was last filled from, written to or opened to be, in seconds since 1970, by the clock of then."""
        return max((file.lstat().st_mtime for file in self.folder.iterdir()), default=self.folder.lstat().st_mtime)

    @property
    def idle_days(self) -> float | None:
        """Since then; None where that cannot be told: the clock of then or that of now is wrong, as after a reboot without a battery."""
        idle = time.time() - self.newest
        return None if idle < -SKEW_S or min(self.newest, time.time()) < FIRST_S else max(0.0, idle) / 86400

    def store(self, warn: Callable[[str], None]) -> Store | None:
        """To look at."""
        if self.parts is None:
            return None
        layout = layout_of(self.parts)
        return Store(self.folder, fingerprint_of(self.parts), layout, self.parts["samples"], warn, writes=False, everybody=True)

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
        if not file.parent.is_symlink():
            yield Cache(file.parent, read_parts(file))


def read_parts(file: Path) -> dict[str, Any] | None:
    """What cache.json says, if it is whole and of this folder."""
    try:
        content = read_json(file, links=False)
        parts: dict[str, Any] = content["parts"]
        if content["format_version"] != FORMAT_VERSION or folder_of(file.parent.parent, parts) != file.parent:
            return None
        layout_of(parts)
        integer(parts, "samples", low=1, high=MOST_ROWS)
        for name in ("teacher", "weights", "data_set"):
            text(parts, name, "?")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Malformed):
        return None
    return parts


def layout_of(parts: Parts) -> Layout:
    """Of the records of a cache, as its cache.json has it, which anybody may have written. Raises Malformed, TypeError and KeyError."""
    classes = integer(parts, "classes", low=1, high=MOST_WORDS)
    top_k = integer(parts, "top_k", None, low=1, high=classes)
    shapes = {
        str(name): [integer({"size": size}, "size", low=1, high=MOST_WORDS) for size in shape]
        for name, shape in mapping(parts, "features", {}).items()
    }
    layout = Layout(integer(parts, "teachers", low=1, high=MOST_WORDS), classes, text(parts, "dtype"), top_k, by_name(shapes))
    if layout.dtype not in DTYPES or layout.words > MOST_WORDS:
        raise Malformed("such records are not kept")
    return layout


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
