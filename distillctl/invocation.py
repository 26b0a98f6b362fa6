"""How a run was asked for: what is kept of it in its folder, and the line that goes on with it. No torch here."""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillctl.files import check_no_link, exists

KEPT = ".hydra"  # the folder within a run's, as Hydra calls it


@dataclass(frozen=True)
class Invocation:
    """Files of it are written once the folder is ours, never before: it may be another run's.

    files: name and text, of the composed config and of the overrides that it was composed of. again: words that going on needs
    besides the folder, since no file gives them: `--config-dir`, `--trust`, what the user has changed. whole: the folder of the sweep that
    the run is a job of, which is what is gone on with. words: the overrides, in which paths are absolute.
    """

    command: str
    files: tuple[tuple[str, str], ...] = ()
    again: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    whole: Path | None = None
    job: Any = None  # of a scheduler, that it belongs to
    mark: str = field(default_factory=lambda: f"{os.getpid()}-{time.time_ns()}")  # of this start: who may write why it ended

    def write(self, folder: Path, first: bool) -> None:
        """Into .hydra at the first start of a run, into .hydra/attempt-N at each later one."""
        from distillctl import state

        place = folder / KEPT
        check_no_link(place)
        if not first:
            place /= next(name for name in map("attempt-{}".format, itertools.count(2)) if not exists(folder / KEPT / name))
        if self.files:
            place.mkdir(parents=True, exist_ok=True)
        for name, text in self.files:
            state.write_atomically(place / name, [text.encode()])

    def over_seeds(self) -> str:
        """The line of a sweep over seeds, with all that was said of this run."""
        return over_seeds(self.command, self.words, self.again)

    def go_on(self, folder: Path) -> str:
        """The whole line that resumes the run, from any directory."""
        return going_on(self.command, self.whole or folder, self.again)


def over_seeds(command: str, words: Sequence[str], again: Sequence[str] = ()) -> str:
    """The line that does the same with several seeds: what was typed, where a run has its folder aside."""
    own = [
        word
        for word in words
        if word.lstrip("+").partition("=")[0] not in ("seed", "resume") and not word.lstrip("+~").startswith("hydra.")
    ]
    return shlex.join(["distillctl", command, "-m", *own, *again]) + " seed=0,1,2,3,4"


def going_on(command: str, folder: Path, again: Sequence[str] = ()) -> str:
    """A command line as a shell reads it."""
    return shlex.join(["distillctl", command, f"resume={folder.absolute()}", *again])
