"""Read answers from lines of text: CSV and TSV with a header, JSON a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distillctl.data.forms import one_form
from distillctl.errors import DataError
from distillctl.files import parse_json
from distillctl.teachers.answers.told import (
    CONFIDENCE,
    LABEL,
    LOGPROBS,
    Key,
    Told,
    Where,
    confidence_of,
    key_among,
    label_of,
    number_of,
    numbers_of,
    of_some,
    sample_of,
)

DELIMITERS = {".csv": ",", ".tsv": "\t"}
Line = tuple[int, Sequence[Any]]  # its number in the file, from 1, and its values


def read_text(content: bytes, suffix: str, file: str, confidence: float) -> Told:
    """file: how the file is called for people. confidence: of a label without one. Raises DataError with the line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}, line {line}: no UTF-8; save it so") from None
    if suffix == ".jsonl":
        return of_objects(list(objects(text, file)), file, confidence)
    columns, lines = table(text, DELIMITERS[suffix], file)
    return of_columns(columns, lines, file, confidence)


def table(text: str, delimiter: str, file: str) -> tuple[list[str], list[Line]]:
    """Header and lines, each of as many values. Empty lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[Line] = []
    columns: list[str] = []
    try:
        for row in reader:
            if not row:
                continue
            if not columns:
                columns = [one_form(name.strip()) for name in row]
                continue
            if len(row) != len(columns):
                raise DataError(f"{file}, line {reader.line_num}: {len(row)} values, and the header has {len(columns)} columns")
            lines.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from None
    if not lines:
        raise DataError(f"{file}: holds no answers")
    return columns, lines


def objects(text: str, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of lines, with their numbers."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: no JSON ({error})") from None
        if not isinstance(found, dict):
            raise DataError(f"{file}, line {number}: no JSON object; write one a line, with row, path or id in it")
        yield number, {one_form(name): value for name, value in found.items()}


def of_objects(lines: Sequence[tuple[int, Mapping[str, Any]]], file: str, confidence: float) -> Told:
    """All lines in the form that the first has."""
    if not lines:
        raise DataError(f"{file}: holds no answers")
    number, first = lines[0]
    key = key_among(first, f"{file}, line {number}")
    if LOGPROBS in first:
        return of_likeliest(lines, key, file)
    columns = list(first) if LABEL not in first else [key, LABEL, CONFIDENCE]
    rows: list[Line] = []
    for number, line in lines:
        strangers = line.keys() - set(columns)
        lacking = [name for name in columns if name not in line and name != CONFIDENCE]
        if strangers or lacking:
            what = f"lacks {lacking[0]}" if lacking else f"has {min(strangers)}"
            raise DataError(f"{file}, line {number}: {what}, unlike the first line ({', '.join(first)})")
        rows.append((number, [line.get(name) for name in columns]))
    return of_columns(columns, rows, file, confidence)


def of_columns(columns: Sequence[str], lines: Sequence[Line], file: str, confidence: float) -> Told:
    """Of a column of keys, and of labels or of a column a class."""
    key = key_among(columns, file)
    twice = [name for place, name in enumerate(columns) if name in columns[:place]]
    if twice:
        raise DataError(f"{file}: two columns are called {twice[0]!r}")
    own, rest = columns.index(key), [place for place, name in enumerate(columns) if name != key]
    where = line_of(file, [number for number, _ in lines])
    samples = [sample_of(key, values[own], where(row)) for row, (_, values) in enumerate(lines)]
    names = [columns[place] for place in rest]
    if LABEL in names:
        if others := [name for name in names if name not in (LABEL, CONFIDENCE)]:
            raise DataError(f"{file}: column {others[0]!r} beside {LABEL}; give labels with or without {CONFIDENCE}, or a column a class")
        return of_labels([values for _, values in lines], columns, key, samples, where, confidence)
    if not names:
        raise DataError(f"{file}: names samples and holds no answers; add a column a class, or {LABEL}")
    values = np.stack([numbers_of([values[place] for place in rest], names, where(row)) for row, (_, values) in enumerate(lines)])
    return Told(key, samples, tuple(names), values, "columns", where)


def of_labels(
    lines: Sequence[Sequence[Any]], columns: Sequence[str], key: str, samples: Sequence[Key], where: Where, confidence: float
) -> Told:
    """A class a sample, and how sure of it somebody is."""
    label, sure = columns.index(LABEL), columns.index(CONFIDENCE) if CONFIDENCE in columns else None
    some = []
    for row, values in enumerate(lines):
        probability = confidence_of(None if sure is None else values[sure], confidence, where(row))
        some.append({label_of(values[label], where(row)): float(np.log(probability))})
    return of_some(key, samples, some, where)


def of_likeliest(lines: Sequence[tuple[int, Mapping[str, Any]]], key: str, file: str) -> Told:
    """Log-probabilities of the likeliest classes, by name, as services give them."""
    samples, some, where = list[Key](), list[dict[str, float]](), line_of(file, [number for number, _ in lines])
    for row, (_, line) in enumerate(lines):
        if line.keys() != {key, LOGPROBS}:
            raise DataError(f"{where(row)}: has {', '.join(sorted(line))}, unlike the first line ({key}, {LOGPROBS})")
        given = line[LOGPROBS]
        if not isinstance(given, dict) or not given:
            raise DataError(f'{where(row)}: {LOGPROBS} has to be an object of a class or more, as in {{"cat": -0.1}}')
        found = {one_form(name): number_of(value, name, where(row)) for name, value in given.items()}
        if len(found) < len(given):
            raise DataError(f"{where(row)}: a class is named twice")
        samples.append(sample_of(key, line[key], where(row)))
        some.append(found)
    return of_some(key, samples, some, where)


def line_of(file: str, numbers: Sequence[int]) -> Where:
    return lambda row: f"{file}, line {numbers[row]}"
