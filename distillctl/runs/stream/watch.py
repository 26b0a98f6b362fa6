"""A folder that is watched as a stream: files that appear in it, written elsewhere and renamed into it, are accepted once and in a fixed order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from distillctl.data.image.files import BadImage, decodes, shown
from distillctl.data.image.names import class_name, is_image
from distillctl.data.names import is_hidden
from distillctl.errors import DataError
from distillctl.runs.stream.journal import Journal
from distillctl.runs.stream.source import Entry, Found, Source, numbered


class Watched(Source):
    """Batches as the journal has them, and behind its end as they come: full ones, or what has come in `patience_s`.

    The order is that of arrival; among files that are seen at one look, that of their times and names. A file of a time before one that
    was accepted already came late, and is learnt all the same: `late` is told once.
    """

    def __init__(
        self,
        root: Path,
        journal: Journal,
        classes: Sequence[str],
        labelled: bool,
        *,
        poll_s: float,
        patience_s: float,
        idle_s: float | None,
        max_pixels: int,
        skips: bool,
        stop: Callable[[], bool],
        warn: Callable[[str], None],
        resting: Callable[[], None],
    ):
        self.root, self.journal, self.classes, self.labelled, self.length = root, journal, classes, labelled, None
        self.poll_s, self.patience_s, self.idle_s, self.max_pixels, self.skips = poll_s, patience_s, idle_s, max_pixels, skips
        self.stop, self.warn, self.resting = stop, warn, resting
        self.where = f"stream.path={shown(root)}"
        self.known = {item.name for _, samples in journal.batches for item in samples}
        self.latest = max((item.time for _, samples in journal.batches for item in samples), default="")
        self.is_late = False

    def batch(self, first: int, most: int) -> Sequence[Entry]:
        """Blocks until there is one, the watch ends, or `stop` says so."""
        assert first <= self.journal.length, (first, self.journal.length)
        if first == self.journal.length:
            samples = self.wait(most)
            if not samples:
                return []
            self.journal.append(samples)
            self.known.update(item.name for item in samples)
        return numbered(self.journal.from_position(first), self.classes, self.where)

    def before(self, position: int) -> Iterable[Entry]:
        for first, samples in self.journal.batches:
            if first < position:
                yield from numbered(samples, self.classes, self.where)

    def wait(self, most: int) -> list[Found]:
        began, rests = time.monotonic(), False
        came: float | None = None
        while True:
            found = self.look()[:most]
            now = time.monotonic()
            came = now if found and came is None else came
            if len(found) == most or found and came is not None and now - came >= self.patience_s:
                if good := self.accepted(found):
                    return good
                continue  # none of them can be learnt
            if self.stop():
                return []
            if not found and not rests:
                self.resting()
                rests = True
            if not found and self.idle_s is not None and now - began >= self.idle_s:
                return []
            time.sleep(self.poll_s)

    def look(self) -> list[Found]:
        """The images that were not accepted yet, the oldest first. Raises DataError where the folder is gone."""
        found: list[tuple[int, Found]] = []
        try:
            for entry in os.scandir(self.root):
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    found += [item for inside in os.scandir(entry.path) for item in self.image(inside, entry.name)]
                else:
                    found += self.image(entry, None)
        except OSError as error:
            reason = "the watched folder is gone" if isinstance(error, FileNotFoundError) else error.strerror
            raise DataError(f"{self.where}: {reason}; what came is saved, put the folder back and resume") from None
        return [item for _, item in sorted(found, key=lambda pair: (pair[0], pair[1].name))]

    def image(self, entry: os.DirEntry[str], folder: str | None) -> list[tuple[int, Found]]:
        name = entry.name if folder is None else f"{folder}/{entry.name}"
        if name in self.known or is_hidden(entry.name) or not is_image(entry.name):
            return []
        try:
            modified = entry.stat().st_mtime_ns
        except FileNotFoundError:  # taken away again
            return []
        when = datetime.fromtimestamp(modified / 1e9, timezone.utc).isoformat()
        return [(modified, Found(name, Path(entry.path), None if folder is None else class_name(folder), when))]

    def accepted(self, found: list[Found]) -> list[Found]:
        """Those that can be learnt. Raises DataError that names one that cannot."""
        result = []
        for item in found:
            if self.labelled and item.label is None:
                raise DataError(f"{self.where}: {shown(item.name)} lies in no class folder, and this stream has labels; move it into one")
            numbered([item], self.classes, self.where)
            try:
                decodes(item.file, self.max_pixels)
            except BadImage as problem:
                if not self.skips:
                    raise DataError(f"{problem}; move it away and resume, or pass dataset.on_bad_image=skip") from None
                self.warn(f"{problem}; left out")
                self.known.add(item.name)
                continue
            if item.time < self.latest and not self.is_late:
                self.is_late = True
                self.warn(
                    f"{shown(item.name)} is of {item.time}, before {self.latest}, which came earlier: samples are learnt as they come"
                )
            self.latest = max(self.latest, item.time)
            result.append(item if self.labelled else item._replace(label=None))
        return result
