"""A file of answers, read and judged: which samples it knows, by which classes, with which logits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from distillctl.config import ANSWER_SUFFIXES, TeacherConfig
from distillctl.errors import DataError
from distillctl.files import read_bytes
from distillctl.paths import as_path
from distillctl.teachers.answers.arrays import read_npz, read_parquet
from distillctl.teachers.answers.forms import Floats, could_be_probabilities, from_probabilities, sums_to_one
from distillctl.teachers.answers.text import read_text
from distillctl.teachers.answers.told import Key, Told, Where

WAY_OUT = "of logits say so: teacher.answers=logits"


@dataclass(frozen=True, eq=False)
class Table:
    """file: as the config has it, for people. sha256: of its bytes. key: row, path or id. samples: R of them, each once.

    classes: C names, in the file's own order. logits: float32 [R, C]; where `some` is true log-probabilities of some classes, NaN of the others.
    where: the place in the file of an answer.
    """

    file: str
    sha256: str
    key: str
    samples: Sequence[Key]
    classes: tuple[str, ...]
    logits: Floats
    some: bool
    where: Where

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return Path(self.file.partition("=")[2]).name


def read(teacher: TeacherConfig) -> Table:
    """The table of a teacher's file; read once by a process. Raises DataError in one line with the place, and MachineError."""
    assert teacher.file is not None
    said, path = f"teacher.file={teacher.file}", as_path(teacher.file)
    try:
        seen = os.stat(path)
        confidence = 1.0 if teacher.confidence is None else teacher.confidence
        return judged(path, said, teacher.answers, confidence, (seen.st_mtime_ns, seen.st_size))
    except OSError as error:
        raise DataError(f"{said}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from None


@lru_cache(maxsize=4)
def judged(path: Path, said: str, answers: str, confidence: float, state: tuple[int, int]) -> Table:
    """state: of the file, so that another one is read anew. Raises OSError, DataError and MachineError."""
    suffix = path.suffix.lower()
    assert suffix in ANSWER_SUFFIXES, suffix
    content = read_bytes(path)
    if not content.strip():
        raise DataError(f"{said}: an empty file")
    if suffix == ".npz":
        told = read_npz(content, said)
    elif suffix == ".parquet":
        told = read_parquet(content, said, confidence)
    else:
        told = read_text(content, suffix, said, confidence)
    check_once(told, said)
    return Table(
        said,
        hashlib.sha256(content).hexdigest(),
        told.key,
        told.samples,
        told.classes,
        logits_of(told, answers, said),
        told.kind == "some",
        told.where,
    )


def check_once(told: Told, said: str) -> None:
    """Raises DataError where a sample is answered twice, or a class has two columns."""
    first: dict[Key, int] = {}
    for row, sample in enumerate(told.samples):
        before = first.setdefault(sample, row)
        if before != row:
            raise DataError(f"{told.where(row)}: {told.key}={sample} was answered before, in {told.where(before).rpartition(', ')[2]}")
    twice = [name for place, name in enumerate(told.classes) if name in told.classes[:place]]
    if twice:
        raise DataError(f"{said}: class {twice[0]!r} is named twice")


def logits_of(told: Told, answers: str, said: str) -> Floats:
    """What is told as logits. answers: `teacher.answers`. Raises DataError where probabilities are none."""
    if told.kind == "some":
        return told.values
    if answers != "auto" and told.kind not in ("columns", answers):
        raise DataError(f"{said}: its array is called {told.kind}, and teacher.answers={answers}; leave that out")
    kind = told.kind if told.kind != "columns" else answers
    fits = sums_to_one(told.values)
    if kind == "auto":
        mixed = fits.any() or could_be_probabilities(told.values)
        kind = "probabilities" if fits.all() or mixed else "logits"
    if kind == "logits":
        return told.values
    for row in np.flatnonzero(~fits)[:1]:
        values = told.values[row]
        name = told.classes[int(values.argmin())]
        wrong = (
            f"{name}={values.min():g} is below 0"
            if values.min() < 0
            else f"the probabilities sum to {values.sum(dtype=np.float64):.4g}, not 1"
        )
        raise DataError(f"{told.where(row)}: {wrong}; {WAY_OUT}")
    return from_probabilities(told.values)
