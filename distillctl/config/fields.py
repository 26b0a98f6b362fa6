"""How a key is declared: its default, its range, and what it decides. No torch here."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Union

# What a key decides, said at each field by `decides=`:
#   answers   the views of images or a teacher's answers to them, and so the weights too
#   weights   what is trained, and what is measured of it
#   rounding  where and on how many devices it is computed: the last bits alone; a resumed run may change it and is told so
#   cost      time, memory, places
#   words     what is printed or logged
DECISIONS = ("answers", "weights", "rounding", "cost", "words")


AUTO = "auto"
Count = Union[int, str]  # a whole number, or `auto` until it is chosen by what else is known


def value(default: Any, *, decides: str, **rules: Any) -> Any:
    """A field for one value: a word, true or false; with `path=True` a path, which a run keeps as an absolute one."""
    return field(default=default, metadata={"decides": decides, **rules})


def number(
    default: Any, *, decides: str, low: float | None = None, high: float | None = None, above: float | None = None, unit: str = ""
) -> Any:
    """A field with a range: `low` and `high` are allowed values, `above` is not. `unit` is told to who is above `high`."""
    return value(default, decides=decides, low=low, high=high, above=above, unit=unit)


def count(*, decides: str, low: int) -> Any:
    """A field of `Count`, which is `auto` unless somebody says otherwise."""
    return value(AUTO, decides=decides, low=low, auto=True)


def chosen(given: Count) -> int:
    """A count that is `auto` no more."""
    assert isinstance(given, int), given
    return given


def option(default: str | None, *choices: str, decides: str) -> Any:
    """A field that takes one of a few words."""
    return value(default, decides=decides, choices=choices)


def branch(kind: type, *, decides: str) -> Any:
    """A field that begins as an empty `kind`: a dataclass of ours, or a dict or list whose keys belong to a component."""
    return field(default_factory=kind, metadata={"decides": decides})
