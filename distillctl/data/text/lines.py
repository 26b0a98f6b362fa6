"""Texts that somebody wants an answer about: the rows of a table, or lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from distillctl.config import TextSetConfig
from distillctl.data.text.columns import columns_of, known_names
from distillctl.data.text.table import encoding_of, open_table, opened_as
from distillctl.errors import DataError
from distillctl.files import open_file

SEEN = 8192  # bytes, of what may be no text
Row = dict[str, str]


def of_table(file: Path, pairs: bool, called: tuple[str | None, str | None] = (None, None)) -> Iterator[tuple[str, Row]]:
    """(what a row is called, its columns, the text's and the pair's by these names too). called: the columns that the model learned from, which
    count where they are there. Raises DataError."""
    config = TextSetConfig(name="text", text=called[0], pair=called[1] or None)
    table = open_table(file, known_names(config))
    if not table.header and len(table.columns) <= 1 + pairs:
        text, pair = "0", "1" if pairs else None
    else:
        there = [name.casefold() for name in table.columns]
        config.text, config.pair = (name if name and name.casefold() in there else None for name in (config.text, config.pair))
        try:
            own = columns_of(table.columns, config, str(file))
        except DataError as error:
            raise DataError(str(error).replace("set dataset.text=<column>", "call it text")) from None
        text, pair = own.text, own.pair
    if pairs and pair is None:
        raise DataError(
            f"{file}: the model reads pairs of texts, and none of its columns ({', '.join(table.columns)}) holds the second; call it pair"
        )
    for _, cells in table.rows:
        row = {name: cell or "" for name, cell in zip(table.columns, cells, strict=True)}
        yield named(row | {"text": row[text], **({"pair": row[pair]} if pair is not None else {})}, pairs)


def of_lines(file: Path | None) -> Iterator[tuple[str, Row]]:
    """A text a line, of a file or of standard input; lines without words are passed over."""
    if file is None:
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        lines = iter(sys.stdin)
    else:
        try:
            encoding = encoding_of(file, None)[0]
            with open_file(file) as opened:
                if encoding != "utf-16" and b"\0" in opened.read(SEEN):
                    raise DataError(f"{file}: no texts, as it has bytes that no text has; files of texts are tables or lines of words")
            lines = iter(opened_as(file, encoding))
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    for line in lines:
        if line.strip():
            yield named({"text": line.rstrip("\r\n")}, False)


def named(row: Row, pairs: bool) -> tuple[str, Row]:
    return (f"{row['text']} | {row['pair']}" if pairs else row["text"]), row
