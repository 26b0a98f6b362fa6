"""Whose code may run: the packages that are trusted, and an import path without the folder that a command was started in. No torch here.

Nothing but `os` and `sys` is imported before that path is mended: whatever else could lie in that folder under the name of a module.
"""

import os
import sys

# A class of these packages may be named in a config, if it also is of the kind that its place asks for.
PACKAGES = ("distillctl", "torch.nn", "torch.optim")
VARIABLE = "DISTILLCTL_TRUST"  # what --trust gave; the processes of a run inherit it


def leave_working_directory() -> None:
    """Take the folder that the command was started in off the import path, here and for all processes that are started from here.

    It may be a stranger's: a `hydra_plugins` or a `yaml.py` in it is none of ours. `python -m`, `python -c` and an empty entry of
    PYTHONPATH put it there. A checkout that this package itself was found in stays, last, where it hides nothing.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was removed
        here = ""
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    standard = os.path.dirname(os.path.realpath(os.__file__))
    kept = [entry for entry in sys.path if entry and (os.path.realpath(entry) != here or here == standard)]
    sys.path[:] = [*kept, home] if home == here else kept


if sys.argv[:1] == ["-m"]:  # so it reads while `python -m distillctl` looks for what to run
    leave_working_directory()

from collections.abc import Callable, Sequence  # noqa: E402
from importlib.machinery import ModuleSpec, PathFinder  # noqa: E402


class FromHere:
    """Finds modules in the folder that the command was started in: those that are `wanted`, by their first name."""

    found: set[str] = set()

    def __init__(self, wanted: Callable[[str], bool]):
        self.wanted = wanted

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if path is not None or not self.wanted(name):
            return None
        spec = PathFinder.find_spec(name, [os.getcwd()])
        if spec is not None:
            self.found.add(name)
        return spec


def named_by_user(name: str) -> bool:
    return name in {package.partition(".")[0] for package in given()}


def asked_by_trusted(_: str) -> bool:
    """Whether the import stands in a module that was found here: what a trusted package imports beside it is its own business."""
    if not given():
        return False
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "importlib":
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").partition(".")[0] in FromHere.found


BEFORE_ALL, AFTER_ALL = FromHere(named_by_user), FromHere(asked_by_trusted)


def let_in() -> None:
    """Make packages that `--trust` named importable from the working folder, and nothing else that lies there."""
    if BEFORE_ALL not in sys.meta_path:
        sys.meta_path.insert(0, BEFORE_ALL)
        sys.meta_path.append(AFTER_ALL)


def given() -> tuple[str, ...]:
    """The packages that the user named by --trust."""
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def trusted() -> tuple[str, ...]:
    """Our own list and what the user named."""
    return (*PACKAGES, *given())


def within(path: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name lies in one of the packages."""
    return any(path.startswith(f"{package}.") for package in packages)
