"""The words that stand for classes, and which class a token or an answer speaks of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.errors import ConfigError, did_you_mean

SPACES = " \t\r\n\u2581\u0120"  # with those by which vocabularies of SentencePiece and of bytes spell a leading space
AROUND = SPACES + "\"'`*.,:;!()[]{}"
THOUGHT = "</think>"  # behind which a model that reasons aloud begins its answer
FENCE = re.compile(r"^```\w*\s*|\s*```$")


@dataclass(frozen=True)
class LabelWords:
    """words: of each class, at least one. exact: case and leading spaces count."""

    classes: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    exact: bool = False

    @classmethod
    def of(cls, classes: Sequence[str], given: Mapping[str, Sequence[str]], exact: bool = False) -> LabelWords:
        """given: words of some classes; a class of which nothing is said has its name. Raises ConfigError."""
        said = {str(name): tuple(words) for name, words in given.items()}
        for name in said:
            if name not in classes:
                raise ConfigError(f"teacher.verbalizer.{name}: no such class; {did_you_mean(name, classes)}")
        found = cls(tuple(classes), tuple(said.get(name, (name,)) for name in classes), exact)
        owners: dict[str, str] = {}
        for name, words in zip(found.classes, found.words, strict=True):
            for word in map(found.normal, words):
                if not word or owners.setdefault(word, name) != name:
                    problem = f"is a word of {owners[word]} too" if word else "is no word"
                    raise ConfigError(f"teacher.verbalizer.{name}: {word!r} {problem}; give each class words of its own")
        return found

    def normal(self, word: str) -> str:
        return word if self.exact else word.strip(SPACES).casefold()

    @property
    def normal_words(self) -> list[tuple[str, int]]:
        return [(self.normal(word), place) for place, words in enumerate(self.words) for word in words]

    def clash(self) -> tuple[str, str] | None:
        """Two words of different classes of which one begins the other: after the first the answer may go on to the second."""
        known = sorted(self.normal_words)
        for at, (word, place) in enumerate(known):
            for other, another in known[at + 1 :]:
                if not other.startswith(word):
                    break
                if place != another:
                    return word, other
        return None

    def class_of_token(self, token: str) -> int | None:
        """The class whose words alone a first token begins, or is; None where it begins none, or words of several classes."""
        start = self.normal(token)
        owners = {place for word, place in self.normal_words if word.startswith(start)} if start else set()
        return owners.pop() if len(owners) == 1 else None

    def class_of_answer(self, text: str) -> int | None:
        """The class that an answer names: as JSON {"label": ...}, as the whole of it, or as the only class named in it; else None."""
        text = FENCE.sub("", text.rpartition(THOUGHT)[2].strip())
        label = json_label(text)
        text = text if label is None else label
        whole = self.class_of_word(text)
        return whole if whole is not None else self.only_named(text)

    def class_of_word(self, word: str) -> int | None:
        """By the class's name or one of its words, without what stands around it."""
        named = {self.normal(name): place for place, name in enumerate(self.classes)} | dict(self.normal_words)
        for form in (word, word.strip(AROUND)):
            if (place := named.get(self.normal(form))) is not None:
                return place
        return None

    def only_named(self, text: str) -> int | None:
        """A word inside a longer one that is named too (`good` in `not good`) is not named by itself."""
        text = text if self.exact else text.casefold()
        spans = []
        for word, place in {*self.normal_words, *((self.normal(name), place) for place, name in enumerate(self.classes))}:
            spans += [(*found.span(), place) for found in re.finditer(rf"(?<!\w){re.escape(word.strip(SPACES))}(?!\w)", text)]
        alone = {
            place
            for start, end, place in spans
            if not any(low <= start and end <= high and high - low > end - start for low, high, _ in spans)
        }
        return alone.pop() if len(alone) == 1 else None


def json_label(text: str) -> str | None:
    """What a JSON object says behind "label"; None for what is none, which an object cut short is too."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    label = found.get("label") if isinstance(found, dict) else None
    return str(label) if isinstance(label, (str, int)) and not isinstance(label, bool) else None
