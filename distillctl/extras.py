"""Libraries that come with an extra of this package: whether one is here, and the line that installs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from distillctl.errors import MachineError


def is_installed(module: str) -> bool:
    """Whether it can be found; it is not imported, which may take seconds."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def pip_line(extra: str) -> str:
    """What installs an extra."""
    return f"pip install 'distillctl[{extra}]'"


def missing(asked: str, library: str, extra: str) -> MachineError:
    """The error of who wants a library that is not here. asked: the key and the value that want it."""
    return MachineError(f"{asked} needs {library}: {pip_line(extra)}")


def require(asked: str, modules: Sequence[str], extra: str) -> None:
    """Raises MachineError where one of the modules is not installed; all that lack are named."""
    if lacking := [name for name in modules if not is_installed(name)]:
        raise missing(asked, " and ".join(lacking), extra)
