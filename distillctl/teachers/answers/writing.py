"""Write answers as a file that teaches by itself: logits by sample, in the format that the file's suffix says.

R samples, K classes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.errors import DataError, MachineError
from distillctl.state import write_atomically
from distillctl.teachers.answers.arrays import CLASSES
from distillctl.teachers.answers.forms import Floats
from distillctl.teachers.answers.text import DELIMITERS
from distillctl.teachers.answers.told import KEYS, LABEL, LOGPROBS, Key
from distillctl.terminal import cell

DIGITS = "%.9g"  # from which a float32 comes back to the last bit


def write(file: Path, key: str, samples: Sequence[Key], classes: Sequence[str], logits: Floats) -> None:
    """float32 [R, K], each to the last bit. Raises DataError where the format cannot hold these names, and MachineError where nothing can be written."""
    suffix = file.suffix.lower()
    check_names(file, suffix, [*classes, *(map(str, samples) if key != "row" else ())], classes)
    if suffix == ".npz":
        content = as_npz(key, samples, classes, logits)
    elif suffix == ".parquet":
        content = as_parquet(file, key, samples, classes, logits)
    else:
        content = as_text(suffix, key, samples, classes, logits).encode()
    write_atomically(file, [content])


def check_names(file: Path, suffix: str, names: Sequence[str], classes: Sequence[str]) -> None:
    taken = {*KEYS, LABEL, LOGPROBS}
    if suffix != ".npz" and (found := next((name for name in classes if name in taken), None)):
        raise DataError(f"to={file}: class {found!r} is called as a column that says something else; write an .npz")
    if suffix in DELIMITERS and (found := next((name for name in names if cell(name) != name or name != name.strip()), None)):
        raise DataError(f"to={file}: {found!r} would be no plain text in a spreadsheet; write an .npz or a .jsonl")


def as_npz(key: str, samples: Sequence[Key], classes: Sequence[str], logits: Floats) -> bytes:
    held = io.BytesIO()
    columns: dict[str, Any] = {key: np.array(samples, np.int64 if key == "row" else np.str_), CLASSES: np.array(classes, np.str_)}
    np.savez(held, logits=logits, **columns)
    return held.getvalue()


def as_parquet(file: Path, key: str, samples: Sequence[Key], classes: Sequence[str], logits: Floats) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MachineError(f"to={file}: Parquet is written by pyarrow: pip install 'distillctl[parquet]'") from None
    held = io.BytesIO()
    columns = {key: list(samples), **{name: logits[:, place] for place, name in enumerate(classes)}}
    parquet.write_table(pyarrow.table(columns), held)
    return held.getvalue()


def as_text(suffix: str, key: str, samples: Sequence[Key], classes: Sequence[str], logits: Floats) -> str:
    held = io.StringIO()
    if suffix == ".jsonl":
        for sample, row in zip(samples, logits, strict=True):
            values = {name: float(DIGITS % value) for name, value in zip(classes, row, strict=True)}
            held.write(json.dumps({key: sample, **values}, ensure_ascii=False) + "\n")
        return held.getvalue()
    lines = csv.writer(held, delimiter=DELIMITERS[suffix], lineterminator="\n")
    lines.writerow([key, *classes])
    lines.writerows([sample, *(DIGITS % value for value in row)] for sample, row in zip(samples, logits, strict=True))
    return held.getvalue()
