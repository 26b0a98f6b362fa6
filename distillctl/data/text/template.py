"""What a model is given of a row: words of one's own, with columns in braces."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distillctl.entries import Malformed
from distillctl.errors import ConfigError, did_you_mean
from distillctl.files import read_text
from distillctl.paths import as_path

if TYPE_CHECKING:
    from distillctl.data.text.corpus import Corpus

OWN = ("text", "pair")  # names of a sample's own columns, whatever these are called
EXAMPLES = "examples"


@dataclass(frozen=True)
class Template:
    """pieces: (words, the column that follows them or None). constants: what stands for names that are no columns, such as examples;
    exceptions: what stands there instead for some samples, by the marks of their texts."""

    pieces: tuple[tuple[str, str | None], ...]
    constants: Mapping[str, str] = field(default_factory=dict)
    exceptions: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, name in self.pieces if name is not None and name not in self.constants))

    def described(self) -> Any:
        """As JSON: equal where the same is made of every row."""
        others = sorted((mark, dict(constants)) for mark, constants in self.exceptions.items())
        return [list(self.pieces), dict(self.constants), *([others] if others else [])]

    def values(self, corpus: Corpus, row: int, seen: Sequence[str] = ()) -> dict[str, str]:
        """What stands for each name. seen: the text and the pair as a view shows them; empty where they are as stored."""
        found = {name: corpus.words_of(name, row) for name in self.columns}
        for number, (name, column) in enumerate(zip(OWN, (corpus.text, corpus.pair), strict=True)):
            if number < len(seen):
                found |= {each: seen[number] for each in (name, column) if each in found}
        constants = self.exceptions.get(corpus.word_mark(row), self.constants) if self.exceptions else self.constants
        return found | dict(constants)

    def join(self, values: Mapping[str, str]) -> str:
        return "".join(words + (values[name] if name is not None else "") for words, name in self.pieces)

    def spelled(self) -> str:
        """As a template says it, constants in their places."""
        return "".join(
            doubled(words) + ("" if name is None else doubled(self.constants[name]) if name in self.constants else f"{{{name}}}")
            for words, name in self.pieces
        )

    def script_pieces(self) -> list[tuple[str, str | None]]:
        """(words, column) for a script that fills it."""
        found: list[tuple[str, str | None]] = []
        for words, name in self.pieces:
            found += [(words, None), (self.constants[name], None)] if name in self.constants else [(words, name)]  # type: ignore[index]
        return found

    def filled(self, corpus: Corpus, row: int, seen: Sequence[str] = ()) -> str:
        return self.join(self.values(corpus, row, seen))


def doubled(words: str) -> str:
    return words.replace("{", "{{").replace("}", "}}")


def read_template(given: str, key: str, known: Sequence[str], constants: Mapping[str, str] | None = None) -> Template:
    """A template as it is written, or of the file that is named."""
    if "{" not in given and as_path(given).is_file():
        try:
            given = read_text(as_path(given))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}={given}: cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'})") from None
    return parse(given, key, known, constants)


def columns_in(template: str, key: str) -> tuple[str, ...]:
    """The names in braces of a template that came with a model. Raises Malformed."""
    try:
        return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))
    except ValueError as error:
        raise Malformed(f"{key} is no template ({error})") from None


def parse(template: str, key: str, known: Sequence[str] | None, constants: Mapping[str, str] | None = None, typed: bool = True) -> Template:
    """known: names of columns; None: any. typed: by a person, so that a backslash and an n are a new line, as shells have none; one that was spelled
    out is as it is. Raises ConfigError that names what is wrong."""
    constants = constants or {}
    try:
        found = list(string.Formatter().parse(template.replace("\\n", "\n").replace("\\t", "\t") if typed else template))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}; a brace that is meant is doubled, as in {{{{") from None
    known = [name for _, name, _, _ in found if name] if known is None else known
    pieces = []
    for words, name, form, conversion in found:
        if name is not None and (form or conversion or not name):
            raise ConfigError(f"{key}: expected the name of a column in braces, as {{text}}, and nothing else")
        if name is not None and name not in (*known, *OWN, *constants):
            raise ConfigError(f"{key}: {{{name}}} is no column; {did_you_mean(name, [*known, *OWN, *constants])}")
        pieces.append((words, name))
    if not any(name in (*known, *OWN) for _, name in pieces):
        raise ConfigError(f"{key}: it has no column in braces, so all texts would be alike; put {{text}} into it")
    return Template(tuple(pieces), {name: value for name, value in constants.items() if any(name == used for _, used in pieces)})
