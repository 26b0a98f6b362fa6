"""The texts of a data set, column by column, and as the tokens of each way of reading them that a model has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillctl import state
from distillctl.data.split import UNLABELLED
from distillctl.data.text import tokenizer
from distillctl.data.text.ragged import Strings
from distillctl.data.text.reader import Encoded, TextReader, Words
from distillctl.types import MARK, Inputs


class Corpus:
    """Rows of columns. `batch` gives them as every reader that was registered sees them.

    columns: texts by the names of columns; text, pair: which of them a sample is. train: the rows of the training split, int64 [N]; targets:
    their labels, int64 [N], below 0 of those without; classes: the names of these.
    """

    def __init__(self, columns: Mapping[str, Strings], text: str, pair: str | None):
        self.columns, self.text, self.pair = dict(columns), text, pair
        self.train = torch.arange(len(self))
        self.targets, self.classes = torch.full_like(self.train, UNLABELLED), tuple[str, ...]()
        self.marks = marks_of(list(self.columns.values()), len(self))
        self.readers: dict[str, TextReader] = {}
        self.encoded: dict[str, Encoded] = {}
        self.kept: str | None = None  # the tokenizer that an earlier attempt of the run trained
        self.place: Path | None = None  # where this one keeps it

    def __len__(self) -> int:
        return len(self.columns[self.text])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64 [N]: bytes of each sample, by which texts of a like length are found whatever their tokens are."""
        found: NDArray[np.int64] = self.columns[self.text].rows.lengths.copy()
        return found + self.columns[self.pair].rows.lengths if self.pair is not None else found

    def trained(self, vocab_size: int, lowercase: bool) -> str:
        """The tokenizer of the training texts: trained once, and taken up again by a run that goes on."""
        if self.kept is None:
            rows, names = self.train.numpy(), ("text", "pair")[: 1 + (self.pair is not None)]
            self.kept = tokenizer.train((self.words_of(name, row) for row in rows for name in names), vocab_size, lowercase)
            if self.place is not None:
                state.write_atomically(self.place, [self.kept.encode()])
        return self.kept

    def register(self, reader: TextReader) -> None:
        """From now on batches hold what this reader sees."""
        self.readers.setdefault(reader.mark, reader)

    def tokens(self, reader: TextReader) -> Encoded:
        """Every row as a reader sees it, encoded once."""
        if reader.mark not in self.encoded:
            self.encoded[reader.mark] = reader.encode_rows(self)
        return self.encoded[reader.mark]

    def words_of(self, name: str, row: int | np.int64) -> str:
        """A column of a row; `text` and `pair` are the sample's own, whatever their columns are called."""
        column = {"text": self.text, "pair": self.pair}.get(name) or name
        return self.columns[column][row] if column in self.columns else ""

    def word_marks(self, rows: Tensor) -> NDArray[np.int64]:
        """int64 [N]: hashes of the samples' own texts, whatever else is told of them."""
        found = np.empty(len(rows), np.int64)
        for place, row in enumerate(rows.tolist()):
            found[place] = self.word_mark(row)
        return found

    def word_mark(self, row: int) -> int:
        """The same of one sample."""
        texts = (" ".join(self.words_of(name, row).split()) for name in ("text", "pair"))
        digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)

    def batch(self, rows: Tensor, device: torch.device, words: Words | None = None) -> Inputs:
        """Samples by their rows, int64 [B] on the CPU, as all readers see them. words: which words are hidden or left out, of a view."""
        places = rows.numpy()
        found: dict[str, Tensor] = {MARK: torch.from_numpy(self.marks[places])}
        for mark, reader in self.readers.items():
            encoded = self.tokens(reader) if words is None else reader.encode_view(self, places, words)
            found |= encoded.columns(mark, places if words is None else np.arange(len(places)), reader.pad)
        if device.type == "cuda":
            return {name: column.pin_memory().to(device, non_blocking=True) for name, column in found.items()}
        return {name: column.to(device) for name, column in found.items()}


def marks_of(columns: Sequence[Strings], count: int) -> NDArray[np.int64]:
    """int64 [N]: a hash of all that is told of a row."""
    found = np.empty(count, np.int64)
    for row in range(count):
        digest = hashlib.blake2b(digest_size=8)
        for column in columns:
            values: Any = column.rows[row]
            digest.update(b"%d:" % len(values))
            digest.update(values)
        found[row] = int.from_bytes(digest.digest(), "little", signed=True)
    return found
