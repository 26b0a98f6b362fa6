"""Read the entries of JSON that anybody may have written: each is there, of the type and in the range that it has to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distillctl.errors import CheckpointError

DEEPEST = 16  # levels of lists and mappings in what an entry leaves open
LONGEST = 4096  # characters of a text
LARGEST = 2**63 - 1  # of whole numbers
REQUIRED: Any = object()


class Malformed(CheckpointError):
    """An entry is missing or of another type than it has to be."""


def text(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "", longest: int = LONGEST) -> Any:
    found = entry(content, key, str, "a text", default, inside)
    if found is not None and len(found) > longest:
        raise Malformed(f"{inside}{key} has more than {longest:,} characters")
    return found


def integer(
    content: Mapping[str, Any],
    key: str,
    default: Any = REQUIRED,
    inside: str = "",
    low: int = -LARGEST,
    high: int = LARGEST,
    unit: str = "",
) -> Any:
    found = entry(content, key, int, "a whole number", default, inside)
    if found is not None and not low <= found <= high:
        raise Malformed(f"{inside}{key} has to be from {low:,} to {high:,}{unit}")
    return found


def numbers(content: Mapping[str, Any], key: str, count: int, inside: str = "", above: float = -math.inf) -> tuple[float, ...]:
    what = f"a list of {count} numbers"
    found = entry(content, key, list, what, inside=inside)
    if len(found) != count or not all(type(number) in (int, float) and abs(number) < 1e30 for number in found):
        raise Malformed(f"{inside}{key} has to be {what}")
    if not all(number > above for number in found):
        raise Malformed(f"{inside}{key} has to be {what} above {above:g}")
    return tuple(float(number) for number in found)


def texts(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    found = entry(content, key, list, "a list of texts", default, inside)
    if found is not None and not all(isinstance(item, str) and len(item) <= LONGEST for item in found):
        raise Malformed(f"{inside}{key} has to be a list of texts")
    return found


def mapping(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    return entry(content, key, Mapping, "a mapping", default, inside)


def open_mapping(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    """One whose entries are somebody else's."""
    found = mapping(content, key, default, inside)
    if found is not None and not plain(found, DEEPEST):
        raise Malformed(f"{inside}{key} is nested too deeply, or holds a number that is not finite")
    return found


def entry(content: Mapping[str, Any], key: str, kind: Any, what: str, default: Any = REQUIRED, inside: str = "") -> Any:
    """One entry, of the kind that it has to be; null where its default is null."""
    found = content.get(key, default)
    if found is REQUIRED:
        raise Malformed(f"{inside}{key} is missing")
    if (found is None and default is None) or (isinstance(found, kind) and not isinstance(found, bool)):
        return found
    raise Malformed(f"{inside}{key} has to be {what}")


def plain(value: Any, depth: int) -> bool:
    """Whether a value is of finite numbers, and no deeper than so."""
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
        return depth > 0 and all(plain(item, depth - 1) for item in items)
    return not isinstance(value, float) or math.isfinite(value)
