"""Small sets of texts for tests: sentences of which a word or two decide the class."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from distillctl.config import TextAugmentConfig, TextSetConfig
from distillctl.data.loader import Place
from distillctl.data.split import whole
from distillctl.data.text import tokenizer
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.loader import TextLoader
from distillctl.data.text.ragged import Strings
from distillctl.data.text.reader import TextReader
from distillctl.data.text.sets import TextSet, load

DECIDING = {"bad": ("awful", "gloomy", "bitter"), "good": ("happy", "lovely", "bright")}
OTHERS = [
    "the",
    "film",
    "a",
    "story",
    "of",
    "two",
    "people",
    "and",
    "their",
    "long",
    "road",
    "home",
    "was",
    "seen",
    "by",
    "many",
    "at",
    "night",
]


def sentences(count: int, seed: int = 0, shortest: int = 2, longest: int = 14) -> list[tuple[str, str]]:
    """(text, label), the labels in turn."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        label = sorted(DECIDING)[number % len(DECIDING)]
        words = [draw.choice(OTHERS) for _ in range(draw.randint(shortest, longest))]
        for _ in range(2):
            words.insert(draw.randrange(len(words) + 1), draw.choice(DECIDING[label]))
        found.append((" ".join(words), label))
    return found


def write_csv(file: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("text", "label")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(header)
        lines.writerows(rows)
    return file


def loaded(root: Path, **more: object) -> TextSet:
    return load(TextSetConfig(name="text", root=str(root), **more))


def corpus_of(texts: Sequence[str], pairs: Sequence[str] | None = None, **columns: Sequence[str]) -> Corpus:
    own = {"text": texts, **({"pair": pairs} if pairs is not None else {}), **columns}
    return Corpus({name: Strings.of(column) for name, column in own.items()}, "text", "pair" if pairs is not None else None)


def reader_of(
    texts: Sequence[str], max_tokens: int = 32, vocab_size: int = 400, pairs: bool = False, template: object = None
) -> TextReader:
    """By a tokenizer that is trained on these texts."""
    content = tokenizer.train(texts, vocab_size, lowercase=False)
    return TextReader(content, 0, max_tokens, template, pairs)


def loader_of(
    corpus: Corpus,
    batch_size: int = 8,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    bucket: int = 50,
    view_seed: int = 0,
    views: int | None = None,
    **augment: float,
) -> TextLoader:
    """Over all rows of a corpus, whose classes do not matter."""
    split = whole(torch.arange(len(corpus)), torch.arange(len(corpus)) % 2)
    place = Place(torch.device("cpu"), rank, world)
    return TextLoader(split, corpus, batch_size, seed, place, bucket, TextAugmentConfig(**augment), view_seed, views)
