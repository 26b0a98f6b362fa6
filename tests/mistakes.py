"""What a user gets wrong, a row each, and what every one of them has to end in: a line with a way out, an exit code, nothing half written."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import call

USAGE, DATA, CHECKPOINT, MACHINE = 2, 3, 4, 5


class Row(NamedTuple):
    """One mistake. `texts` are what its lines must hold, one for each problem; `prepare` makes files in the folder that the command runs in.

    without: libraries that are not to be there. marks: of pytest.
    """

    name: str
    command: str
    code: int
    texts: tuple[str, ...]
    prepare: Callable[..., Any] | None = None
    lines: int = 1
    without: tuple[str, ...] = ()
    marks: tuple[Any, ...] = ()


def each(rows: list[Row]) -> pytest.MarkDecorator:
    """A test for each row, by its name."""
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=row.marks) for row in rows])


def check_refused(row: Row, place: Path, command: str | None = None) -> None:
    """Run what a row says, in a folder where all that it takes is prepared. command: all of the words, where the row has only some."""
    finished = call(*shlex.split(row.command if command is None else command), cwd=place)
    lines = finished.err.splitlines()
    assert finished.code == row.code, finished.err
    assert finished.err.count("\n") == len(lines) == row.lines, finished.err
    assert all(line.startswith("error: ") for line in lines), finished.err
    assert "Traceback" not in finished.err + finished.out
    for text in row.texts:
        assert text in finished.err, (text, finished.err)
    assert not half_written(place)
    assert not (place / "marker").exists()  # what code that is hidden in a file would leave


def half_written(place: Path) -> list[Path]:
    """Temporary files, records of runs that claim to be done, and what only a run that was done would ship."""
    done = [file for file in place.glob("out*/**/run.json") if json.loads(file.read_text())["status"] in ("done", "running")]
    return [*place.rglob("*.tmp"), *done, *place.glob("out/*/*.safetensors"), *place.glob("out/*/*.onnx")]
