"""Knowledge distillation from the command line, and from Python: `docs/python.md`."""

from distillctl import trust  # noqa: F401  # first of all: as `python -m distillctl` it mends the import path

import importlib  # isort: skip
from typing import TYPE_CHECKING, Any  # isort: skip

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
