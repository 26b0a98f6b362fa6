"""Text as it was typed: `dataset.root=2024_11_27` is no number, and `~/a photo (1).jpg` no error. No torch here.

Hydra reads a value before it knows of which type its key is: `3.10` becomes 3.1, `~` and `é` cannot be read at all. What stands for a key
that is text is therefore quoted for it here, where it would not come out as it went in; so is any value that Hydra cannot read, and its key
then says what it takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Optional, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from distillctl.config import DATA_KINDS, SCHEMAS, MemberConfig
from distillctl.config.keys import entries, holder_of
from distillctl.paths import as_path

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
WORD = re.compile(r"(?P<key>[+]{0,2}[A-Za-z_$][\w.$/@:-]*)=(?P<value>.*)", re.DOTALL)
SWEEPS = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|extend_list)\(.*\)", re.DOTALL)  # Hydra's own functions
MEMBER = re.compile(r"teacher\.members\.[^.]+\.(?P<entry>\w+)")
OPENING, CLOSING = "([{", ")]}"


def as_typed(command: str, words: Iterable[str], sweep: bool = False) -> list[str]:
    """Overrides in Hydra's spelling. sweep: a comma between values separates jobs; else it is a part of its text."""
    words = list(words)
    sweep = sweep or "hydra.mode=MULTIRUN" in words
    return [reworded(command, word, sweep) for word in words]


def reworded(command: str, word: str, sweep: bool) -> str:
    found = WORD.fullmatch(word)
    if found is None:
        return word
    key, value = found["key"], found["value"]
    kind = str if key in FOLDERS else kind_of(command, key.lstrip("+"))
    if SWEEPS.fullmatch(value.strip()) and (kind is None or sweep):
        return word
    spell: Callable[[str], str]
    if kind is list:
        spell = list_of_text
    elif kind is str:
        spell = folder if key in FOLDERS else text
    elif readable(value) or value.startswith("{"):
        return word
    else:
        spell = unread
    return f"{key}={','.join(map(spell, pieces(value)))}" if sweep else f"{key}={spell(value)}"


def text(value: str) -> str:
    """One value of a key that is text; `null` is none, and what is quoted is Hydra's already."""
    if value == "null" or is_quoted(value) or (read(value) == value and "\\" not in value):
        return value
    return quoted(value)


def folder(value: str) -> str:
    """The same for Hydra's own folders, in which it does not know `~`."""
    plain = unquoted(value)
    return quoted(str(as_path(plain))) if plain.startswith("~") else text(value)


def list_of_text(value: str) -> str:
    """A list of texts; one without brackets is a list of one."""
    if value == "null" or value.startswith("${"):
        return value
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else None
    if inner is None:
        return f"[{text(value)}]"
    return f"[{','.join(text(item.strip()) for item in pieces(inner))}]" if inner.strip() else value


def unread(value: str) -> str:
    """A value of any other key, or a list of such, with quotes where Hydra cannot read it."""
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(unread(item.strip()) for item in pieces(value[1:-1]))}]"
    return value if readable(value) else quoted(value)


def quoted(value: str) -> str:
    """Text as Hydra reads it whatever characters it has: of backslashes only those before a quote are doubled."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def unquoted(value: str) -> str:
    """What a value in Hydra's spelling says."""
    said = read(value) if is_quoted(value) else value
    return said if isinstance(said, str) else value


def is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and readable(value)


def readable(value: str) -> bool:
    return parsed(f"key={value}") is not None


def read(value: str) -> object:
    """What Hydra would make of it; None where it is not one value, or cannot be read."""
    override = parsed(f"key={value}")
    return None if override is None or override.is_sweep_override() else override.value()


def parsed(word: str) -> Override | None:
    """A word as Hydra reads it; None for one that it cannot read, of which it says itself what is wrong."""
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, ValueError):
        return None


def pieces(value: str) -> list[str]:
    """A value at its commas, but for those within quotes or brackets; a quote within a word, and brackets without an end, are letters."""
    ways = ((True, True), (False, True), (True, False), (False, False))
    return next(found for nested, quotes in ways if (found := split(value, nested, quotes)))


def split(value: str, nested: bool, quotes: bool) -> list[str]:
    """None at all where brackets or quotes do not close."""
    found, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote and not found[-1].endswith("\\") else quote
        elif quotes and character in "'\"" and not found[-1].strip(" " + OPENING):
            quote = character
        elif nested and character in OPENING + CLOSING:
            depth += 1 if character in OPENING else -1
        elif character == "," and depth == 0:
            found.append("")
            continue
        found[-1] += character
        if depth < 0:
            return []
    return [] if quote or (nested and depth) else found


@cache
def kind_of(command: str, key: str) -> type | None:
    """`str` or `list` (of text) where that is what a key takes that may be any text; else None."""
    member = MEMBER.fullmatch(key)
    if member is not None:
        return text_field(MemberConfig, member["entry"])
    if key.startswith("dataset."):
        found = (field_of(schema, key.removeprefix("dataset.")) for schema in DATA_KINDS.values())
        return next((kind for kind in found if kind is not None), None)
    return field_of(SCHEMAS[command], key)


@cache
def is_text(key: str) -> bool:
    """Whether a key is text in any command that has it."""
    return any(kind_of(command, key) is not None for command in SCHEMAS)


def field_of(schema: type, key: str) -> type | None:
    return text_field(holder_of(schema, key), key.rpartition(".")[2])


def text_field(schema: type | None, name: str) -> type | None:
    entry = entries(schema).get(name)
    if entry is None or "choices" in entry.metadata:
        return None
    hint = get_type_hints(schema)[name]
    return str if hint in (str, Optional[str]) else list if hint == list[str] else None
