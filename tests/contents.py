"""Contents of JSON files, with one entry that is not as it should be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def with_entry(content: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which the entry at `a.b.c` is replaced, or removed where the value is `...`."""
    found: dict[str, Any] = copy.deepcopy(dict(content))
    *parents, last = path.split(".")
    inner = found
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return found
