"""Real texts that lie on every machine that has this package: what the docstrings of scientific libraries begin with, and which library each is of."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from distillctl.data.text.table import Table
from distillctl.errors import MachineError

LIBRARIES = ("numpy", "sklearn", "torch")
PARTS = {"torch": ("nn", "optim", "distributions", "utils", "ao", "autograd", "distributed")}  # all of it would take too long to read
SHORTEST, LONGEST, MOST = 25, 400, 1500  # characters of a text; texts of a library


def table() -> Table:
    return Table(("text", "label"), rows())


def rows() -> Iterator[tuple[int, Sequence[str | None]]]:
    number = 0
    for library in LIBRARIES:
        seen: dict[str, None] = {}
        for text in texts_of(library):
            if len(seen) >= MOST:
                break
            if text not in seen and library not in text.casefold():
                seen[text] = None
                number += 1
                yield number, [text, library]


def texts_of(library: str) -> Iterator[str]:
    """The first paragraph of each docstring, from the sources alone: nothing is imported."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(f"dataset=docstrings: {library} is not installed")
    [root] = list(spec.submodule_search_locations)[:1]
    for place in [Path(root, part) for part in PARTS.get(library, ("",))]:
        for file in sorted(place.rglob("*.py")):
            if "tests" in file.parts or "test" in file.name:
                continue
            try:
                tree = ast.parse(file.read_bytes())
            except (OSError, SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (told := ast.get_docstring(node)):
                    text = " ".join(told.split("\n\n")[0].split())
                    if SHORTEST <= len(text) <= LONGEST:
                        yield text
