"""Rows of different length, one behind the other in a file that is mapped: of a million of them memory holds what is being looked at."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Ragged:
    """values: all rows, one behind the other. offsets: int64 [N + 1], where each begins, and the end."""

    def __init__(self, values: NDArray[Any], offsets: NDArray[np.int64]):
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [N]"""
        return np.diff(self.offsets)

    def padded(self, rows: NDArray[np.int64], fill: int = 0) -> Tensor:
        """int64 [B, T] of the given rows, T the longest of them, filled up behind."""
        begins, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        places = np.arange(max(int(lengths.max(initial=0)), 1))
        inside = places < lengths[:, None]
        found = np.full(inside.shape, fill, np.int64)
        found[inside] = self.values[(begins[:, None] + places)[inside]]
        return torch.from_numpy(found)


class Builder:
    """Takes rows one by one. Nobody sees its file, which is gone with the process."""

    def __init__(self, dtype: type[np.generic]):
        self.dtype, self.file, self.lengths = np.dtype(dtype), tempfile.TemporaryFile(), array("I")

    def add(self, row: bytes | array[Any], length: int) -> None:
        self.file.write(row)
        self.lengths.append(length)

    def done(self) -> Ragged:
        self.file.flush()
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(np.frombuffer(self.lengths, np.uint32), out=offsets[1:])
        values = np.memmap(self.file, self.dtype, "r", shape=(int(offsets[-1]),)) if offsets[-1] else np.zeros(0, self.dtype)
        return Ragged(values, offsets)


class Strings:
    """Texts by their rows, as UTF-8."""

    def __init__(self, rows: Ragged):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> str:
        return self.rows[row].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        builder = StringsBuilder()
        for text in texts:
            builder.add(text)
        return builder.done()


class StringsBuilder:
    def __init__(self) -> None:
        self.rows = Builder(np.uint8)

    def __len__(self) -> int:
        return len(self.rows.lengths)

    def add(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        self.rows.add(encoded, len(encoded))

    def done(self) -> Strings:
        return Strings(self.rows.done())
