"""Paths as people give them. No torch here."""

from __future__ import annotations

import os
from pathlib import Path


def as_path(given: str | Path) -> Path:
    """`~` is the home; of a user that there is not, it is a letter."""
    return Path(os.path.expanduser(given))
