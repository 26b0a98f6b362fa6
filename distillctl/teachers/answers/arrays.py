"""Read answers from files of arrays: Parquet, and NumPy's npz, of which no object is ever loaded."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from distillctl.data.forms import one_form
from distillctl.errors import DataError, MachineError, first_line
from distillctl.files import memory_bytes
from distillctl.teachers.answers.text import of_columns
from distillctl.teachers.answers.told import KEYS, Told, Where, key_among, sample_of

CLASSES, VALUES = "classes", ("logits", "probabilities")


def read_parquet(content: bytes, file: str, confidence: float) -> Told:
    """The columns of a CSV. Raises MachineError without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MachineError(f"{file}: Parquet is read by pyarrow: pip install 'distillctl[parquet]'") from None
    try:
        opened = parquet.ParquetFile(pyarrow.BufferReader(content))
        about = opened.metadata
        if about.num_rows * max(about.num_columns, 1) * 8 > memory_bytes():
            raise DataError(f"{file}: holds more answers than this machine has memory for")
        found = opened.read()
    except DataError:
        raise
    except Exception as error:  # as a damaged file can raise anything
        raise DataError(f"{file}: no Parquet that can be read ({first_line(error)[:120]})") from None
    if not found.num_rows:
        raise DataError(f"{file}: holds no answers")
    columns = [one_form(str(name).strip()) for name in found.column_names]
    values = [column.to_pylist() for column in found.columns]
    return of_columns(columns, list(enumerate(zip(*values, strict=True), start=1)), f"{file}", confidence)


def read_npz(content: bytes, file: str) -> Told:
    """`logits` or `probabilities` [R, C], `classes` [C], and `row`, `path` or `id` [R]. Raises DataError."""
    held = arrays_of(content, file)
    key = key_among([name for name in held if name in KEYS], file)
    form = [name for name in VALUES if name in held]
    if len(form) != 1:
        raise DataError(f"{file}: holds {' and '.join(sorted(held)) or 'nothing'}, and has to have one of {' and '.join(VALUES)}")
    if CLASSES not in held:
        raise DataError(f"{file}: lacks the array {CLASSES}, the names of the columns of {form[0]}")
    values, names, samples = held[form[0]], held[CLASSES], held[key]
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{file}: {form[0]} is {values.dtype} {list(values.shape)}, and has to be numbers [samples, classes]")
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise DataError(f"{file}: {CLASSES} is {names.dtype} {list(names.shape)}, and has to be texts [classes]")
    if samples.ndim != 1 or samples.dtype.kind not in ("iu" if key == "row" else "Uiu"):
        raise DataError(
            f"{file}: {key} is {samples.dtype} {list(samples.shape)}, and has to be {'whole numbers' if key == 'row' else 'texts'} [samples]"
        )
    if values.shape != (len(samples), len(names)):
        raise DataError(f"{file}: {form[0]} is {list(values.shape)}, of {len(samples)} samples ({key}) and {len(names)} {CLASSES}")
    if not values.size:
        raise DataError(f"{file}: holds no answers")
    where = place_of(file)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    for row in np.flatnonzero(~np.isfinite(narrow).all(1))[:1]:
        raise DataError(f"{where(row)}: {form[0]} has a number that is not finite")
    told = [sample_of(key, value, where(row)) for row, value in enumerate(samples.tolist())]
    return Told(key, told, tuple(one_form(str(name)) for name in names.tolist()), narrow, form[0], where)


def arrays_of(content: bytes, file: str) -> dict[str, np.ndarray[Any, Any]]:
    """By name; of Python objects none, whose loading could run code."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            if sum(part.file_size for part in parts.infolist()) > memory_bytes():
                raise DataError(f"{file}: holds more than this machine has memory for")
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except DataError:
        raise
    except Exception as error:  # as a damaged file can raise anything
        if "allow_pickle" in str(error):
            raise DataError(f"{file}: holds Python objects, which are not loaded; save texts as np.array(names, dtype=str)") from None
        raise DataError(f"{file}: no .npz that can be read ({first_line(error)[:120]})") from None


def place_of(file: str) -> Where:
    return lambda row: f"{file}, entry {row}"
