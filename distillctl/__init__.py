"""Knowledge distillation from the command line, and from Python: `docs/python.md`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillctl.api import Experiment, configure, load, plan, resume, run

__version__ = "0.2.0"
__all__ = ["Experiment", "configure", "load", "plan", "resume", "run"]


def __getattr__(name: str) -> Any:
    """The functions of `api`, as they are asked for: the command line answers at once because this imports no torch."""
    if name in __all__:
        return getattr(importlib.import_module("distillctl.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
