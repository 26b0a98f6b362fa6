"""Folders with dates for names as a stream: the oldest first, within a date in a drawn order."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from pathlib import Path

from distillctl import draws
from distillctl.data.image.files import shown
from distillctl.data.image.folder import images_below
from distillctl.data.image.names import class_name
from distillctl.data.names import is_hidden
from distillctl.errors import DataError
from distillctl.runs.stream.source import Found

DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T _-]?(\d{2})[-:.]?(\d{2})(?:[-:.]?(\d{2}))?)?")
EXPECTED = "expected a folder for each date, as 2026-01-03/CLASS/image.png"


def date_of(name: str) -> datetime | None:
    """When a folder is of: 2026-01-03, 20260103, 2026-01-03T12-30; None where its name says no date."""
    found = DATE.fullmatch(name)
    if found is None:
        return None
    try:
        return datetime(*(int(part) for part in found.groups() if part is not None))  # type: ignore[arg-type]
    except ValueError:
        return None


def has_dates(root: Path) -> bool:
    return any(date_of(folder.name) is not None for folder in folders_of(root))


def folders_of(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError as error:
        raise DataError(f"stream.path={shown(folder)}: {(error.strerror or str(error)).lower()}") from None


def listed(root: Path, seed: int) -> list[Found]:
    """All images, date by date. Classes are the folders within a date; without them the images have no labels. Raises DataError."""
    where, folders = f"stream.path={shown(root)}", folders_of(root)
    dates = {folder: date_of(folder.name) for folder in folders}
    if strangers := [folder.name for folder, date in dates.items() if date is None]:
        raise DataError(f"{where}: the folder {shown(strangers[0])} has no date for a name; {EXPECTED}")
    if twice := [date for date, count in Counter(dates.values()).items() if count > 1]:
        names = " and ".join(shown(folder.name) for folder, date in dates.items() if date == twice[0])
        raise DataError(f"{where}: {names} are of the same time; put them together, or give them hours: 2026-01-03T12-30")
    found: list[Found] = []
    for folder in sorted(folders, key=lambda folder: dates[folder]):  # type: ignore[arg-type, return-value]
        found += of_date(root, folder, str(dates[folder]), seed)
    if not found:
        raise DataError(f"{where}: no images; {EXPECTED}")
    labels = {item.label is None for item in found}
    if len(labels) > 1:
        loose = next(item.name for item in found if item.label is None)
        raise DataError(f"{where}: {shown(loose)} lies in no class folder, and others do; {EXPECTED}")
    return found


def of_date(root: Path, folder: Path, time: str, seed: int) -> list[Found]:
    classes = folders_of(folder)
    places = [(None, folder)] if not classes else [*((class_name(place.name), place) for place in classes)]
    items = [Found(str(file.relative_to(root)), file, label, time) for label, place in places for file in images_below(place)[0]]
    if classes:
        items += [Found(str(file.relative_to(root)), file, None, time) for file in images_below(folder)[0] if file.parent == folder]
    order = draws.permutation(len(items), seed, f"of {time}").tolist() if items else []
    return [items[place] for place in order]
