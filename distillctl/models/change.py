"""What every kind of edit is: done to a net, spelled in its record, and written as Python for its loading script."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import ClassVar

from torch import nn

SIZE = re.compile(r"[1-9][0-9]{0,4}")


class Change(ABC):
    """One kind of edit. Its spelling is its name and its sizes."""

    name: ClassVar[str]
    needs: ClassVar[str] = ""  # what the loading script has to define for it

    def __str__(self) -> str:
        return " ".join([self.name, *(str(size) for size in self.sizes)])

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    @classmethod
    def read(cls, became: str) -> Change | None:
        """The change that is spelled so; None where it is of another kind."""
        sizes = sizes_of(became, cls.name)
        return cls(*sizes) if sizes is not None and len(sizes) == len(fields(cls)) else None  # type: ignore[arg-type]

    def do(self, module: nn.Module, path: str) -> None:
        """Let it become of the module at `path`. May raise anything where there is none, or it cannot."""
        parent, _, child = path.rpartition(".")
        if not child:
            raise AttributeError("the net itself is no part of it")
        setattr(module.get_submodule(parent), child, self.apply(module.get_submodule(path)))

    @abstractmethod
    def apply(self, part: nn.Module) -> nn.Module:
        """What the module becomes. Raises TypeError for a kind of module that cannot be edited so."""

    @abstractmethod
    def source(self, module: nn.Module, path: str) -> str:
        """The same as lines of Python, for `path` in the edited net `module`."""


def sizes_of(became: str, name: str) -> tuple[int, ...] | None:
    """The numbers behind a name; None of anything else."""
    sizes = became.removeprefix(name).split() if became.startswith(name) else ["unlike"]
    return tuple(map(int, sizes)) if all(SIZE.fullmatch(size) for size in sizes) else None


def replaced(path: str, made: str) -> str:
    """A line of the loading script."""
    return f"    replace(net, {quoted(path)}, {made})"


def quoted(path: str) -> str:
    """As a text of Python, whatever is in it."""
    return json.dumps(path)


def convolution(part: nn.Module) -> nn.Conv2d:
    if not isinstance(part, nn.Conv2d):
        raise TypeError(f"{type(part).__name__} is no convolution")
    return part


def linear(part: nn.Module) -> nn.Linear:
    if not isinstance(part, nn.Linear):
        raise TypeError(f"{type(part).__name__} is no linear layer")
    return part
