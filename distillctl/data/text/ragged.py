"""Rows of different length, one behind the other in a file that is mapped: of a million of them memory holds what is being looked at."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillctl.errors import MachineError

HELD = 2**20  # bytes


class Ragged:
    """values: all rows, one behind the other. offsets: int64 [N + 1], where each begins, and the end."""

    def __init__(self, values: NDArray[Any], offsets: NDArray[np.int64]):
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int | np.int64) -> NDArray[Any]:
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
    """Takes rows one by one. Few are held; more go to a file that nobody sees, and that is gone with the process. Raises MachineError."""

    def __init__(self, dtype: type[np.generic]):
        self.dtype, self.held, self.lengths = np.dtype(dtype), bytearray(), array("I")
        self.file: IO[bytes] | None = None

    def add(self, row: bytes | array[Any], length: int) -> None:
        self.held += memoryview(row).cast("B")
        self.lengths.append(length)
        if len(self.held) > HELD:
            self.spill()

    def spill(self) -> None:
        try:
            self.file = self.file or tempfile.TemporaryFile(buffering=0)
            write_all(self.file, self.held)
        except OSError as error:
            raise MachineError(
                f"{tempfile.gettempdir()}: texts and their tokens are laid out there ({error.strerror}); free some space, or set TMPDIR"
            ) from None
        self.held = bytearray()

    def done(self) -> Ragged:
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        if self.lengths:
            np.cumsum(np.frombuffer(self.lengths, np.uint32), out=offsets[1:])
        if self.file is None:
            return Ragged(np.frombuffer(bytes(self.held), self.dtype), offsets)
        self.spill()
        # as a plain array, whose rows are taken in a tenth of the time that those of a memmap take
        return Ragged(np.asarray(np.memmap(self.file, self.dtype, "r", shape=(int(offsets[-1]),))), offsets)


def write_all(file: IO[bytes], content: bytearray) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


class Strings:
    """Texts by their rows, as UTF-8."""

    def __init__(self, rows: Ragged):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int | np.int64) -> str:
        return self.rows[row].tobytes().decode()

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
        encoded = text.encode("utf-8", "replace")  # halves of a character, as JSON may have them, no tokenizer takes
        self.rows.add(encoded, len(encoded))

    def done(self) -> Strings:
        return Strings(self.rows.done())
