"""Read the tables of a set into one corpus: which rows are of which part, and which label each has."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from distillctl.config import TextSetConfig
from distillctl.data.forms import one_form
from distillctl.data.text.columns import Columns, columns_of
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.ragged import StringsBuilder
from distillctl.data.text.table import LOOKED_AT, Table
from distillctl.errors import DataError

MOST_CLASSES = 10_000
HIDDEN = ("", "-1")  # what stands in place of a label where nobody tells it; -1 where all labels are numbers


@dataclass
class Part:
    """rows: of the corpus. index: of each its place in its source, empty ones counted. labels: numbers of classes, the last plus one for none."""

    rows: array[int] = field(default_factory=lambda: array("q"))
    index: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    empty: int = 0
    first_empty: str = ""
    read: int = 0


@dataclass(frozen=True)
class Gathered:
    """classes: names in their order; none where there are no labels. columns: that the files have. notes: what is to be said."""

    corpus: Corpus
    parts: dict[str, Part]
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    where: str
    notes: list[str]


def gather(opened: Mapping[str, Sequence[tuple[str, Table]]], config: TextSetConfig) -> Gathered:
    """Raises DataError that names the file and the line."""
    where, first = next(iter(opened.values()))[0]
    known, notes = list(first.columns), []
    builders = {name: StringsBuilder() for name in known}
    spelled: dict[str, int] = {}
    parts: dict[str, Part] = {}
    columns: Columns | None = None
    for name, tables in opened.items():
        part = parts[name] = Part()
        for place, table in tables:
            notes += table.notes
            rows, own = with_columns(table, config, place, notes)
            columns = columns or own
            if (own.text, own.pair) != (columns.text, columns.pair):
                raise DataError(
                    f"{place}: its texts are in {own.text!r}, those of {where} in {columns.text!r}; call them alike, or set dataset.text"
                )
            add(part, rows, table, own, builders, spelled, place)
        if part.empty:
            notes.append(f"{part.empty:,} of {part.read:,} rows have no text and were left out, the first of them {part.first_empty}")
        if not part.rows:
            raise DataError(f"{tables[0][0]}: none of its rows has a text")
    assert columns is not None
    classes, order = ordered(list(spelled), config, first.names.get(columns.label or "", []), where)
    for part in parts.values():
        part.labels = array("q", (order[label] if label >= 0 else len(classes) for label in part.labels))
    corpus = Corpus({name: builder.done() for name, builder in builders.items()}, columns.text, columns.pair)
    return Gathered(corpus, parts, classes, tuple(known), where, notes)


def with_columns(
    table: Table, config: TextSetConfig, where: str, notes: list[str]
) -> tuple[Iterator[tuple[int, Sequence[str | None]]], Columns]:
    """The rows and which columns they have. Of a file without a header the longest is the text, the one with fewest values the label."""
    if table.header or config.text is not None:
        return table.rows, columns_of(table.columns, config, where)
    head = list(islice(table.rows, LOOKED_AT))
    lengths = [sum(len(row[place] or "") for _, row in head) for place in range(len(table.columns))]
    text = max(range(len(lengths)), key=lengths.__getitem__)
    others = [place for place in range(len(lengths)) if place != text]
    values = {place: len({row[place] for _, row in head}) for place in others}
    label = min(others, key=lambda place: values[place]) if others else None
    found = replace(config, text=str(text), label=config.label or (str(label) if label is not None else None))
    told = f"{where}: its first line is no header; texts are taken from column {text}"
    notes.append(told + (f", labels from column {label}" if label is not None else "") + "; dataset.text and dataset.label say otherwise")
    return chain(head, table.rows), columns_of(table.columns, found, where)


def add(
    part: Part,
    rows: Iterator[tuple[int, Sequence[str | None]]],
    table: Table,
    columns: Columns,
    builders: Mapping[str, StringsBuilder],
    spelled: dict[str, int],
    where: str,
) -> None:
    places = {name: table.columns.index(name) for name in builders if name in table.columns}
    text, label = places[columns.text], table.columns.index(columns.label) if columns.label is not None else None
    builder = builders[columns.text]
    for line, row in rows:
        part.read += 1
        if not (row[text] or "").strip():
            part.empty += 1
            part.first_empty = part.first_empty or f"line {line} of {where}"
            continue
        part.rows.append(len(builder))
        part.index.append(part.read - 1)
        for name, each in builders.items():
            each.add((row[places[name]] if name in places else "") or "")
        told = one_form((row[label] or "").strip()) if label is not None else ""
        part.labels.append(spelled.setdefault(told, len(spelled)) if told else -1)
        if len(spelled) > MOST_CLASSES:
            raise DataError(
                f"{where}: column {columns.label!r} has more than {MOST_CLASSES:,} different values, which are no classes; set dataset.label"
            )


def ordered(spelled: list[str], config: TextSetConfig, told: Sequence[str], where: str) -> tuple[tuple[str, ...], list[int]]:
    """The classes in their order, numbers by size and words by name, and the place of each spelling among them; -1 among numbers is none."""
    numbers = all(is_number(name) for name in spelled) and bool(spelled)
    names = sorted((name for name in spelled if not (numbers and name in HIDDEN)), key=float if numbers else str)
    shown = list(config.class_names or ()) if names else []  # without labels they are names that somebody else's answers have
    if not shown and told and numbers and all(float(name).is_integer() and 0 <= float(name) < len(told) for name in names):
        shown, names = list(told), [str(place) for place in range(len(told))]
    if shown and names and len(shown) != len(names):
        raise DataError(f"dataset.class_names={shown}: {len(shown)} names, and {where} has the labels {', '.join(names[:10])}")
    if shown and len(set(map(one_form, shown))) < len(shown):
        raise DataError(f"dataset.class_names={shown}: a name stands there twice")
    classes, place = tuple(shown or names), {name: position for position, name in enumerate(names)}
    return classes, [place.get(name, len(classes)) for name in spelled]


def is_number(name: str) -> bool:
    try:
        return abs(float(name)) < float("inf")
    except ValueError:
        return False
