"""Which texts belong on one side of a split: those of one value of a column, or those that stand in one another word for word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

NOWHERE = -1  # the group of texts that stand in several others, which have no one group and are never held out


def by_value(values: Iterable[str]) -> Tensor:
    """int64 [N]: equal values, equal numbers."""
    numbers: dict[str, int] = {}
    return torch.from_numpy(np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64))


def by_containment(texts: Iterable[str]) -> Tensor:
    """int64 [N]: each text has the number of the one text that it stands in, word for word, and that stands in no other itself.

    So the phrases of a sentence have that sentence's number. A phrase of several sentences has NOWHERE.
    """
    spelled = [" " + " ".join(text.split()) + " " for text in texts]
    distinct = list(dict.fromkeys(spelled))
    anchored = anchors(distinct)
    whole = [True] * len(distinct)
    for place, text in enumerate(distinct):
        for inner in inside(text, place, distinct, anchored):
            whole[inner] = False
    root = [place if is_whole else None for place, is_whole in enumerate(whole)]
    for place, text in enumerate(distinct):
        if not whole[place]:
            continue
        for inner in inside(text, place, distinct, anchored):
            root[inner] = place if root[inner] in (None, place) else NOWHERE
    number = {text: root[place] for place, text in enumerate(distinct)}
    return torch.tensor([number[text] for text in spelled], dtype=torch.int64)


def anchors(distinct: Sequence[str]) -> dict[str, list[int]]:
    """The places of texts by the rarest of their words: a text stands only in those that have that word."""
    common = Counter(word for text in distinct for word in set(text.split()))
    found: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(distinct):
        if words := text.split():
            found[min(words, key=lambda word: (common[word], word))].append(place)
    return found


def inside(text: str, place: int, distinct: Sequence[str], anchored: dict[str, list[int]]) -> list[int]:
    """The places of all other texts that stand in this one."""
    return [
        other
        for word in dict.fromkeys(text.split())
        for other in anchored.get(word, ())
        if other != place and len(distinct[other]) < len(text) and distinct[other] in text
    ]
