"""Texts as a view shows them: words hidden or left out, each drawn by (view seed, view, index, place)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from distillctl.data.text.reader import Words
from distillctl.draws import uniform

WORD = re.compile(r"\S+")
SCHEME = 1  # another way to draw is another number here, so that kept answers to other views are not found
Span = tuple[int, int]


def shown(texts: Sequence[str], words: Words, part: int, mask: str) -> list[str]:
    """texts: of the samples of `words.index`, in their order. part: 0 of the texts, 1 of the second texts of pairs. One word or more is always left.

    Whether a word is hidden or left out does not depend on the tokenizer: a teacher and a student of other tokens see the same words.
    """
    spans = [[found.span() for found in WORD.finditer(text)] for text in texts]
    places, index = torch.arange(max(map(len, spans), default=0))[None], words.index[:, None]
    # of all texts at once: to draw for each alone costs more than its tokens
    dropped = (uniform(words.seed, "word drop", words.view, index, part, places) < words.drop).numpy()
    hidden = (uniform(words.seed, "word mask", words.view, index, part, places) < words.mask).numpy()
    return [
        changed(text, own, dropped[row, : len(own)], hidden[row, : len(own)], mask)
        for row, (text, own) in enumerate(zip(texts, spans, strict=True))
    ]


def changed(text: str, spans: Sequence[Span], dropped: NDArray[np.bool_], hidden: NDArray[np.bool_], mask: str) -> str:
    """A text without the words that are dropped, each with the space before it, and with `mask` for those that are hidden."""
    if not spans or not (dropped.any() or hidden.any()):
        return text
    pieces, behind = [], 0
    left = dropped.tolist()
    left[0] = left[0] and not dropped.all()
    for (begin, end), is_dropped, is_hidden in zip(spans, left, hidden.tolist(), strict=True):
        if not is_dropped:
            pieces.append(text[behind:begin] + (mask if is_hidden else text[begin:end]))
        behind = end
    return "".join(pieces) + text[behind:]
