"""A CSV of path, label and time as a stream: its rows in their order, whose times may not go back."""

from __future__ import annotations

import csv
import io
import math
from datetime import datetime
from pathlib import Path

from distillctl.data.image.files import shown
from distillctl.errors import DataError
from distillctl.files import read_text
from distillctl.runs.stream.source import Found

LARGEST = 2**30  # bytes
COLUMNS = "path,label,time"


def listed(file: Path) -> list[Found]:
    """All rows. Paths are from the folder of the CSV; without a column of labels there are none. Raises DataError that names a row."""
    where = f"stream.path={shown(file)}"
    rows = csv.DictReader(io.StringIO(text_of(file, where)))
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    for needed in ("path", "time"):
        if needed not in columns:
            raise DataError(f"{where}: no column {needed!r} among {', '.join(columns)[:200] or 'none'}; its first line has to be {COLUMNS}")
    rows.fieldnames = columns
    found: list[Found] = []
    seen: dict[str, int] = {}
    last: float | datetime | None = None
    try:
        for number, row in enumerate(rows, start=2):
            item, when = read_row(row, f"{where}: row {number}", file.parent, "label" in columns)
            last = later(last, when, f"{where}: row {number}", item.time, found)
            if item.name in seen:
                raise DataError(f"{where}: row {number} has {shown(item.name)}, as row {seen[item.name]} has; a sample is learnt once")
            seen[item.name] = number
            found.append(item)
    except csv.Error as error:
        raise DataError(f"{where}: not a CSV that can be read ({error})") from None
    if not found:
        raise DataError(f"{where}: no rows below its first line")
    return found


def text_of(file: Path, where: str) -> str:
    try:
        return read_text(file, LARGEST).removeprefix("\ufeff")
    except FileNotFoundError:
        raise DataError(f"{where}: no such file") from None
    except OSError as error:
        raise DataError(f"{where}: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{where}: not UTF-8 text") from None


def read_row(row: dict[str, str], where: str, folder: Path, labelled: bool) -> tuple[Found, float | datetime]:
    name, time, label = ((row.get(key) or "").strip() for key in ("path", "time", "label"))
    if not name or "\0" in name:
        raise DataError(f"{where} has no path")
    if labelled and not label:
        raise DataError(f"{where} ({shown(name)}) has no label, and there is a column of them; fill it, or leave the column out")
    return Found(name, folder / name, label if labelled else None, time), when(time, where)


def when(time: str, where: str) -> float | datetime:
    """A number, or a date as ISO 8601 writes it."""
    try:
        number = float(time)
        if math.isfinite(number):
            return number
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(time)
    except ValueError:
        raise DataError(f"{where}: time {time[:60]!r} is neither a number nor a date as 2026-01-03T12:30:00") from None


def later(last: float | datetime | None, now: float | datetime, where: str, shown_now: str, found: list[Found]) -> float | datetime:
    """Raises DataError where a clock goes back, or two times cannot be compared."""
    if last is None:
        return now
    try:
        goes_back = now < last  # type: ignore[operator]
    except TypeError:
        raise DataError(f"{where}: time {shown_now} and {found[-1].time} before it are of two kinds; write all alike") from None
    if goes_back:
        raise DataError(f"{where}: the clock goes back, from {found[-1].time} to {shown_now}; sort the rows by time")
    return now
