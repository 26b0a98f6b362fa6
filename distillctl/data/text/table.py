"""Rows of files of texts: CSV, TSV, JSON lines and parquet, one by one, so that none is too large for memory."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

from distillctl import extras
from distillctl.errors import DataError, first_line
from distillctl.files import open_file

DELIMITED = (".csv", ".tsv", ".tab")
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
SUFFIXES = (*DELIMITED, *LINES, *PARQUET)
DELIMITERS = (",", "\t", ";", "|")
LOOKED_AT = 200  # rows, to see how a file is written
LONGEST = 2**27  # characters of a cell
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Table:
    """columns: their names, of a file without a header their numbers from 0. rows: (line, cells), a cell None where there is nothing.

    notes: what was found out about the file and is to be said. names: of labels that are numbers, where the file has them.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Sequence[str | None]]]
    header: bool = True
    notes: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)


def open_table(file: Path, known: Sequence[str], delimiter: str | None = None, encoding: str | None = None) -> Table:
    """known: names by which a header is told from a first row. Raises DataError that names the file, and the line where one is meant."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{file}: files of texts are {', '.join(SUFFIXES)}")
    try:
        open_file(file).close()
        if suffix in PARQUET:
            return parquet(file)
        found, notes = encoding_of(file, encoding)
        table = json_lines(file, found) if suffix in LINES else delimited(file, found, known, delimiter)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    table.notes[:0] = notes
    return table


def encoding_of(file: Path, asked: str | None) -> tuple[str, list[str]]:
    """By its mark, else UTF-8 where all of it is that, else the one of Western Windows, which is said."""
    with open_file(file) as opened:
        begin = opened.read(4)
        marked = next((name for mark, name in BOMS if begin.startswith(mark)), None)
        name = marked if asked is None or known_as(asked) == "utf-8" and marked == "utf-8-sig" else asked
        opened.seek(0)
        decoder = codecs.getincrementaldecoder(name or "utf-8")()
        try:
            while piece := opened.read(2**20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            reason = getattr(error, "reason", None) or str(error)
            if asked:
                raise DataError(f"dataset.encoding={asked}: {file} is not written so ({reason}); leave it out") from None
            if name:
                raise DataError(
                    f"{file}: it begins as {name.upper().removesuffix('-SIG')} and is not written so ({reason}); save it again"
                ) from None
            return "cp1252", [f"{file.name} is not UTF-8, and was read as cp1252; dataset.encoding says otherwise"]
    return name or "utf-8", []


def known_as(encoding: str) -> str:
    """The name that Python has for an encoding of text. Raises DataError."""
    try:
        with contextlib.suppress(UnicodeError):
            b"some".decode(encoding)  # of codecs that are no encodings, as of base64, this is a LookupError too
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise DataError(f"dataset.encoding={encoding}: no such encoding; leave it out, or take utf-8 or latin-1") from None


def opened_as(file: Path, encoding: str) -> TextIOWrapper:
    return TextIOWrapper(open_file(file), encoding=encoding, errors="replace" if encoding == "cp1252" else "strict", newline="")


def delimited(file: Path, encoding: str, known: Sequence[str], delimiter: str | None) -> Table:
    csv.field_size_limit(LONGEST)
    with opened_as(file, encoding) as opened:
        sample = list(islice(opened, LOOKED_AT))
    if not sample:
        raise DataError(f"{file}: is empty")
    mark = delimiter_of(file, sample, delimiter, known)
    quoting = csv.QUOTE_NONE if mark == "\t" and not is_quoted(sample, mark) else csv.QUOTE_MINIMAL
    first = next(cells(file, iter(sample), mark, quoting), (1, []))[1]
    names = [cell.strip() for cell in first]
    header = any(name.casefold() in known for name in names)
    if not header:
        names = [str(place) for place in range(len(first))]
    check_names(file, names)

    def rows() -> Iterator[tuple[int, Sequence[str | None]]]:
        with opened_as(file, encoding) as opened:
            found = cells(file, opened, mark, quoting)
            if header:
                next(found)
            for line, row in found:
                if len(row) != len(names):
                    raise DataError(
                        f"{file}, line {line}: {len(row)} column{'s' * (len(row) != 1)} where the first line has {len(names)}; "
                        f"quote texts that hold {mark!r}, or set dataset.delimiter"
                    )
                yield line, row

    return Table(tuple(names), rows(), header)


def cells(file: Path, lines: Iterator[str], delimiter: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold something, each with the line that it begins in."""
    reader: Any = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=False)  # type: ignore[arg-type]
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {line}: {error}; is it a table with one row a line?") from None


def delimiter_of(file: Path, sample: Sequence[str], asked: str | None, known: Sequence[str]) -> str:
    """What is asked for; of a TSV the tab; else what cuts the first line into most known names; else what cuts the first lines into most columns,
    of which all have as many."""
    if asked is not None:
        mark = {"\\t": "\t", "tab": "\t", "comma": ","}.get(asked, asked)
        if len(mark) != 1 or mark in '\r\n"':
            raise DataError(f"dataset.delimiter={asked}: expected one character, as ';', or tab")
        return mark
    if file.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    scores = {}
    for mark in DELIMITERS:
        quoting = csv.QUOTE_NONE if mark == "\t" and not is_quoted(sample, mark) else csv.QUOTE_MINIMAL
        rows = [row for _, row in cells(file, iter(sample), mark, quoting)]
        rows = rows[:-1] if len(sample) == LOOKED_AT and len(rows) > 1 else rows  # a quoted cell may go on behind
        named = sum(cell.strip().casefold() in known for cell in rows[0]) if rows else 0
        scores[mark] = named, len(rows[0]) if len({len(row) for row in rows}) == 1 else 0
    return max(DELIMITERS, key=scores.__getitem__)


def is_quoted(sample: Sequence[str], delimiter: str) -> bool:
    """Whether tabs are a program's, which quotes some cells whole; where people write tabs a quotation mark is a part of the text."""
    found = [cell for line in sample for cell in line.rstrip("\r\n").split(delimiter) if cell.startswith('"')]
    return bool(found) and all(len(cell) > 1 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "") for cell in found)


def json_lines(file: Path, encoding: str) -> Table:
    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        with opened_as(file, encoding) as opened:
            for number, line in enumerate(opened, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    raise DataError(f"{file}, line {number}: no JSON that can be read") from None
                if not isinstance(record, dict):
                    raise DataError(f"{file}, line {number}: expected an object with a text and its label, as {{...}}")
                yield number, record

    names = list(dict.fromkeys(str(name) for _, record in islice(records(), LOOKED_AT) for name in record))
    if not names:
        raise DataError(f"{file}: is empty")
    check_names(file, names)

    def rows() -> Iterator[tuple[int, Sequence[str | None]]]:
        for number, record in records():
            yield number, [cell_of(record.get(name)) for name in names]

    return Table(tuple(names), rows())


def parquet(file: Path) -> Table:
    try:
        import pyarrow.parquet
    except ImportError:
        raise extras.missing(str(file), "pyarrow", "parquet") from None
    try:
        opened = pyarrow.parquet.ParquetFile(file)
    except Exception as error:  # of arrow, of many kinds
        raise DataError(f"{file}: no parquet file that can be read ({first_line(error)[:120]})") from None
    names = list(opened.schema_arrow.names)
    check_names(file, names)

    def rows() -> Iterator[tuple[int, Sequence[str | None]]]:
        number = 0
        batches = opened.iter_batches(4096)
        while True:
            try:
                found = [column.to_pylist() for column in next(batches).columns]
            except StopIteration:
                return
            except Exception as error:  # of arrow, of many kinds
                raise DataError(f"{file}: cannot be read behind row {number:,} ({first_line(error)[:120]})") from None
            for values in zip(*found, strict=True):
                number += 1
                yield number, [cell_of(value) for value in values]

    return Table(tuple(names), rows(), names=label_names(opened.schema_arrow.metadata or {}))


def label_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of labels that are numbers, as the `datasets` library writes them into a file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(map(str, told["names"])) for name, told in features.items() if isinstance(told, dict) and "names" in told}
    except (ValueError, KeyError, TypeError):
        return {}


def cell_of(value: Any) -> str | None:
    """A cell as text; whole numbers without a point, None and NaN as nothing."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (bool, int, float, list, dict)) else str(value)


def check_names(file: Path, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: two columns are called {twice!r}; rename one")
