"""Paths as people give them, and the folder of caches. No torch here."""

from __future__ import annotations

import os
from pathlib import Path


def as_path(given: str | Path) -> Path:
    """`~` is the home; of a user that there is not, it is a letter."""
    return Path(os.path.expanduser(given))


def cache_folder(folder: str | None = None) -> Path:
    """Where caches are: as a key says, or $DISTILLCTL_CACHE, or beside the runs."""
    return as_path(folder or os.environ.get("DISTILLCTL_CACHE") or "outputs/.cache")
