"""Training texts with their labels, as a part of what a model reads: which they are, and what they look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillctl.data.split import UNLABELLED
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.template import EXAMPLES, parse
from distillctl.draws import permutation
from distillctl.errors import ConfigError

LABEL = "label"


@dataclass(frozen=True)
class Drawn:
    """rows: of the corpus, in the order in which they are shown. spares: of each the row that stands in for it; None where there is no other."""

    rows: tuple[int, ...]
    spares: tuple[int | None, ...]


def examples(
    corpus: Corpus, count: int, template: str, seed: int, words: Mapping[str, str], key: str
) -> tuple[str, dict[int, dict[str, str]]]:
    """What stands for {examples}, and what stands there for the texts that are among them, by their marks.

    No text sees itself: in its place it sees the next one of its class that was drawn, else one less. words: what stands for a class where
    that is not its name. Raises ConfigError that begins with `key`.
    """
    made = parse(template, f"{key}.example_template", tuple(corpus.columns), {LABEL: ""})
    labelled = LABEL in made.constants
    if labelled and not bool((corpus.targets != UNLABELLED).any()):
        raise ConfigError(
            f"{key}.examples={count}: no training text has a label; leave {{label}} out of {key}.example_template, or examples"
        )
    drawn = draw(corpus, count, seed, labelled)
    if len(drawn.rows) < count:
        raise ConfigError(
            f"{key}.examples={count}: there are {len(drawn.rows)} different training texts{' with labels' * labelled} to draw from; lower it"
        )
    classes = dict(zip(corpus.train.tolist(), corpus.targets.tolist(), strict=True)) if labelled else {}

    def shown(row: int) -> str:
        name = corpus.classes[classes[row]] if labelled else ""
        return made.join(made.values(corpus, row) | ({LABEL: words.get(name, name)} if labelled else {}))

    said = [shown(row) for row in drawn.rows]
    instead = {}
    for place, (row, spare) in enumerate(zip(drawn.rows, drawn.spares, strict=True)):
        others = [*said[:place], *([shown(spare)] if spare is not None else []), *said[place + 1 :]]
        instead[corpus.word_mark(row)] = {EXAMPLES: "".join(others)}
    return "".join(said), instead


def draw(corpus: Corpus, count: int, seed: int, labelled: bool) -> Drawn:
    """Different texts, class after class in turn until there are enough, in a drawn order: a function of the training split and the seed.

    labelled: whether those without a label are passed over, and classes are told apart.
    """
    order = permutation(len(corpus.train), seed, "examples")
    rows = corpus.train[order]
    own = corpus.targets[order] if labelled else torch.zeros_like(rows)
    numbers = [number for number in torch.unique(own).tolist() if number != UNLABELLED]
    turns = [numbers[place] for place in permutation(len(numbers), seed, "example classes").tolist()]
    seen: set[int] = set()
    queues = {number: different(corpus, (own == number).nonzero().flatten(), rows, seen) for number in turns}
    found: dict[int, list[int]] = {number: [] for number in turns}
    taken, left = 0, turns
    while taken < count and left:
        for number in list(left):
            if taken == count:
                break
            place = next(queues[number], None)
            if place is None:
                left = [each for each in left if each != number]
                continue
            found[number].append(place)
            taken += 1
    spare = {number: next(queues[number], None) for number in turns}
    chosen = sorted((place, number) for number, places in found.items() for place in places)
    spares = [spare[number] for _, number in chosen]
    return Drawn(tuple(int(rows[place]) for place, _ in chosen), tuple(None if place is None else int(rows[place]) for place in spares))


def different(corpus: Corpus, places: Tensor, rows: Tensor, seen: set[int]) -> Iterator[int]:
    """Places in a drawn order whose texts were not seen before."""
    for place in places:  # a few of maybe a million: a list of all of them would be made for nothing
        mark = corpus.word_mark(int(rows[place]))
        if mark not in seen:
            seen.add(mark)
            yield int(place)


def first_words(verbalizer: Mapping[str, Sequence[str] | str]) -> dict[str, str]:
    """By the names of classes what stands for each in an example."""
    return {str(name): words if isinstance(words, str) else words[0] for name, words in verbalizer.items() if words}
