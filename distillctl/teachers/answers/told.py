"""What a file of answers tells before it is judged: whose answers, about which classes, which values; and what is wrong with it, by its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillctl.data.forms import one_form
from distillctl.errors import DataError
from distillctl.teachers.answers.forms import SLACK, Floats, left_over

KEYS = ("row", "path", "id")
LABEL, CONFIDENCE, LOGPROBS = "label", "confidence", "logprobs"
LARGEST = float(np.finfo(np.float32).max)
Key = int | str
Where = Callable[[int], str]  # of the answer at a place from 0: the file and the line, for people


@dataclass(frozen=True, eq=False)
class Told:
    """key: by which samples are named. samples: R numbers or names. classes: C names. values: [R, C].

    kind: "logits", "probabilities", or "columns" where the file does not say which; "some" of log-probabilities that are NaN where nothing is told.
    """

    key: str
    samples: Sequence[Key]
    classes: tuple[str, ...]
    values: Floats
    kind: str
    where: Where


def key_among(columns: Iterable[str], file: str) -> str:
    """The one column that names samples. Raises DataError."""
    found = [name for name in columns if name in KEYS]
    if not found:
        raise DataError(f"{file}: no column names the samples; call one row, path or id")
    if len(found) > 1:
        raise DataError(f"{file}: {' and '.join(found)} both name the samples; leave one column out")
    return found[0]


def sample_of(key: str, value: Any, where: str) -> Key:
    """A number of a row, or a name. Raises DataError."""
    if key != "row":
        name = one_form(str(value)).removeprefix("./") if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if not name:
            raise DataError(f"{where}: {key}={value!r} is no name of a sample")
        return name
    text = str(value).strip()
    if isinstance(value, (bool, float)) or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise DataError(f"{where}: row={text[:40]} is no whole number from 0")
    return int(text)


def number_of(value: Any, name: str, where: str) -> float:
    """Of a text or a number. Raises DataError."""
    try:
        found = float("nan") if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not np.isfinite(found) or abs(found) > LARGEST:
        raise DataError(f"{where}: {name}={str(value)[:40] or 'nothing'} is no finite number")
    return found


def numbers_of(values: Sequence[Any], names: Sequence[str], where: str) -> Floats:
    """float32 [C]: many at once, and one by one only to tell which of them is none."""
    try:
        found = np.array(values, np.float64)
        if found.shape == (len(names),) and not any(isinstance(value, bool) for value in values):
            with np.errstate(over="ignore"):
                narrow = found.astype(np.float32)
            if np.isfinite(narrow).all():
                return narrow
    except (TypeError, ValueError, OverflowError):
        pass
    return np.array([number_of(value, name, where) for name, value in zip(names, values, strict=True)], np.float32)


def confidence_of(value: Any, usual: float, where: str) -> float:
    """The probability of a label; `usual` where none is given. Raises DataError."""
    if value is None or value == "":
        return usual
    found = number_of(value, CONFIDENCE, where)
    if not 0 < found <= 1:
        raise DataError(f"{where}: confidence={found:g} is no probability above 0 and at most 1")
    return found


def label_of(value: Any, where: str) -> str:
    name = one_form(str(value).strip()) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not name:
        raise DataError(f"{where}: label={value!r} is no name of a class")
    return name


def of_some(key: str, samples: Sequence[Key], some: Sequence[Mapping[str, float]], where: Where) -> Told:
    """Of log-probabilities of some classes each, by name. Raises DataError where they are more than all."""
    classes = tuple(sorted({name for each in some for name in each}))
    place = {name: number for number, name in enumerate(classes)}
    values = np.full((len(some), len(classes)), np.nan, np.float32)
    for row, each in enumerate(some):
        values[row, [place[name] for name in each]] = list(each.values())
    left = left_over(values)
    for row in np.flatnonzero(left < -SLACK)[:1]:
        raise DataError(f"{where(row)}: the probabilities sum to {1 - left[row]:.4g}, which is more than 1")
    return Told(key, samples, classes, values, "some", where)
