"""A text as a view shows it: words hidden or left out, each drawn by (view seed, view, index, place)."""

from __future__ import annotations

import re

import torch

from distillctl.data.text.reader import Words
from distillctl.draws import uniform

WORD = re.compile(r"\S+")
SCHEME = 1  # another way to draw is another number here, so that kept answers to other views are not found


def shown(text: str, words: Words, place: int, part: int, mask: str) -> str:
    """place: of the sample in the view's rows; part: 0 of the text, 1 of the second text of a pair. One word or more is always left.

    Whether a word is hidden or left out does not depend on the tokenizer: a teacher and a student of other tokens see the same words.
    """
    spans = [found.span() for found in WORD.finditer(text)]
    if not spans:
        return text
    index, places = int(words.index[place]), torch.arange(len(spans))
    dropped = uniform(words.seed, "word drop", words.view, index, part, places) < words.drop
    hidden = uniform(words.seed, "word mask", words.view, index, part, places) < words.mask
    if bool(dropped.all()):
        dropped[0] = False
    pieces, behind = [], 0
    for (begin, end), is_dropped, is_hidden in zip(spans, dropped.tolist(), hidden.tolist(), strict=True):
        if not is_dropped:
            pieces.append(text[behind:begin] + (mask if is_hidden else text[begin:end]))
        behind = end
    return "".join(pieces) + text[behind:]
