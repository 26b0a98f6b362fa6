"""Where the configs and recipes of this project lie. No torch here."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def conf_dir() -> Path:
    """`conf/` inside the wheel, or beside the package in a checkout."""
    return shipped("conf")


@cache
def recipes_dir() -> Path:
    return shipped("recipes")


def shipped(name: str) -> Path:
    package = Path(__file__).resolve().parent.parent
    inside, beside = package / name, package.parent / name
    return inside if inside.is_dir() else beside
