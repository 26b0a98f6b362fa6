"""How one model reads texts: its tokenizer, what a template makes of a row, and where it is cut.

B texts, T tokens of the longest of them.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillctl.data.text.ragged import Builder, Ragged
from distillctl.data.text.template import Template
from distillctl.data.text.tokenizer import FILE, load
from distillctl.errors import ConfigError

if TYPE_CHECKING:
    from distillctl.data.text.corpus import Corpus

CHUNK = 2048  # texts that are encoded at once
IDS, LENGTHS, SECOND = "ids", "lengths", "second"
Sample = tuple[str, ...] | Mapping[str, str]  # a text or a pair, or what stands for the columns of a template


@dataclass(frozen=True)
class Words:
    """Which words of each text are hidden, and which are left out: functions of (view seed, view, index). Below these probabilities."""

    seed: int
    view: int
    index: Tensor
    mask: float
    drop: float


@dataclass(frozen=True)
class Encoded:
    """tokens: int32 ids. second: int32 [N], where the second text of a pair begins; None where no row has one. cut: how many rows were too long."""

    tokens: Ragged
    second: NDArray[np.int32] | None
    cut: int

    def columns(self, mark: str, rows: NDArray[np.int64], pad: int) -> dict[str, Tensor]:
        """ids int64 [B, T], filled up with `pad`; lengths int64 [B]; of pairs second int64 [B]. By the mark of whose tokens they are."""
        lengths = self.tokens.offsets[rows + 1] - self.tokens.offsets[rows]
        found = {f"{mark}.{IDS}": self.tokens.padded(rows, pad), f"{mark}.{LENGTHS}": torch.from_numpy(lengths)}
        if self.second is not None:
            found[f"{mark}.{SECOND}"] = torch.from_numpy(self.second[rows].astype(np.int64))
        return found


@dataclass(frozen=True, eq=False)
class TextReader:
    """tokenizer: the content of a tokenizer.json. pad: the id that is filled up with. pairs: whether samples are two texts.

    open_end: what the tokenizer puts behind a text, as [SEP], is left out, since something is to go on there.
    """

    tokenizer: str
    pad: int
    max_tokens: int
    template: Template | None = None
    pairs: bool = False
    open_end: bool = False

    @cached_property
    def mark(self) -> str:
        """Equal marks, equal tokens."""
        told = [self.tokenizer, self.pad, self.max_tokens, self.template.described() if self.template else None, self.pairs]
        told += [self.open_end] if self.open_end else []
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @cached_property
    def tokenizer_mark(self) -> str:
        """Of the tokenizer alone: token by token two models can be compared where these are equal, and their templates too."""
        return hashlib.sha256(self.tokenizer.encode()).hexdigest()

    @cached_property
    def uncut(self) -> Any:
        """The `tokenizers.Tokenizer`, which neither cuts nor fills up."""
        found = load(self.tokenizer, FILE)
        found.no_padding()
        found.no_truncation()
        return found

    @cached_property
    def cutting(self) -> Any:
        """The same, which cuts the longer text of a pair first."""
        found = load(self.tokenizer, FILE)
        found.no_padding()
        found.enable_truncation(self.max_tokens, strategy="longest_first")
        return found

    @property
    def vocabulary(self) -> int:
        """How many ids there are: one more than the largest."""
        return max(self.uncut.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def mask_word(self) -> str:
        """What stands for a hidden word: the tokenizer's own sign where it has one."""
        known = self.uncut.get_vocab(with_added_tokens=True)
        return next((sign for sign in ("[MASK]", "<mask>", "[UNK]", "<unk>") if sign in known), "")

    @property
    def unknown(self) -> int | None:
        """The id of what is not known; None of a tokenizer that knows all."""
        sign = getattr(self.uncut.model, "unk_token", None)
        found: int | None = self.uncut.token_to_id(sign) if sign is not None else None
        return found

    def tokens_of(self, word: str) -> tuple[int, ...]:
        """The ids of a word as it stands, without any sign in front or behind."""
        return tuple(self.uncut.encode(word, add_special_tokens=False).ids)

    def ids(self, found: Any) -> list[int]:
        """Of what the library has encoded."""
        ids: list[int] = found.ids
        own = len(ids)
        while self.open_end and own and found.special_tokens_mask[own - 1]:
            own -= 1
        return ids[:own]

    def check_template(self, key: str) -> None:
        """Whether there is room for texts beside a template's own words, which are never cut. Raises ConfigError."""
        if self.template is None:
            return
        alone = len(
            self.ids(self.uncut.encode(self.template.join({**dict.fromkeys(self.template.columns, ""), **self.template.constants})))
        )
        if alone >= self.max_tokens:
            raise ConfigError(
                f"{key}.max_tokens={self.max_tokens}: the template alone has {alone} tokens; raise it, or take a shorter template or fewer examples"
            )

    def encode_rows(self, corpus: Corpus) -> Encoded:
        """All rows of a corpus."""
        return self.encode(len(corpus), lambda row: self.sample(corpus, row))

    def encode_view(self, corpus: Corpus, rows: NDArray[np.int64], words: Words) -> Encoded:
        """Some rows, as a view shows them."""
        from distillctl.data.text.views import shown

        seen = [
            shown([corpus.words_of(name, row) for row in rows], words, part, self.mask_word)
            for part, name in enumerate(("text", "pair")[: 1 + self.pairs])
        ]
        return self.encode(len(rows), lambda place: self.sample(corpus, int(rows[place]), [texts[place] for texts in seen]))

    def sample(self, corpus: Corpus, row: int, seen: Sequence[str] = ()) -> Sample:
        """What is encoded of a row. seen: its texts as a view shows them; empty where they are as stored."""
        if self.template is not None:
            return self.template.values(corpus, row, seen)
        return tuple(seen) or tuple(corpus.words_of(name, row) for name in ("text", "pair")[: 1 + self.pairs])

    def encode(self, count: int, sample: Callable[[int], Sample]) -> Encoded:
        """sample: of a number from 0."""
        builder, second, cut = Builder(np.int32), array("i"), 0
        for start in range(0, count, CHUNK):
            given = [sample(row) for row in range(start, min(start + CHUNK, count))]
            for ids, types, too_long in self.encoded(given):
                cut += too_long
                builder.add(array("i", ids), len(ids))
                second.append(types.index(1) if 1 in types else len(ids))
        tokens = builder.done()
        begins = np.frombuffer(second, np.int32) if count else np.zeros(0, np.int32)
        has_second = bool((begins < tokens.lengths).any())
        return Encoded(tokens, begins if has_second else None, cut)

    def encoded(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], list[int], bool]]:
        """ids, types and whether something was cut off, of each."""
        if self.template is None:
            texts = cast(Sequence[tuple[str, ...]], samples)
            for found in self.cutting.encode_batch([each if len(each) > 1 else each[0] for each in texts]):
                yield found.ids, found.type_ids, bool(found.overflowing)
            return
        rows = cast(Sequence[Mapping[str, str]], samples)
        filled = self.uncut.encode_batch([self.template.join(values) for values in rows])
        for values, found in zip(rows, filled, strict=True):
            too_long = len(self.ids(found)) > self.max_tokens
            if too_long:
                found = self.fitted(dict(values), found)
            yield self.ids(found), found.type_ids, too_long

    def fitted(self, values: dict[str, str], found: Any) -> Any:
        """A template filled with columns so far as they fit, the longest cut first: its own words are never cut."""
        assert self.template is not None
        while (excess := len(self.ids(found)) - self.max_tokens) > 0:
            tokens = {name: self.uncut.encode(values[name], add_special_tokens=False) for name in self.template.columns}
            longest = max(tokens, key=lambda name: len(tokens[name].ids))
            if not tokens[longest].ids:
                raise ConfigError(
                    f"dataset.max_tokens={self.max_tokens}: the template alone has {len(self.ids(found))} tokens; raise it, or take a shorter template"
                )
            values[longest] = shortened(values[longest], tokens[longest].offsets, excess)
            found = self.uncut.encode(self.template.join(values))
        return found


def shortened(text: str, offsets: Sequence[tuple[int, int]], excess: int) -> str:
    """The beginning of a text without so many of its tokens; it is always shorter, also where a character is several tokens, as of bytes."""
    kept = len(offsets) - excess
    return text[: min(offsets[kept - 1][1], offsets[kept][0], len(text) - 1)] if kept > 0 else ""
