"""`labels.txt`: the names of the classes, a line each in the order of the outputs, for programs in any language."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.terminal import visible


def labels_text(classes: Sequence[str]) -> str:
    """As many lines as classes, in UTF-8 when it is written; what would end a line or act on a terminal is spelled (`\\n`, `\\x1b`)."""
    return "".join(f"{visible(name, lines=False)}\n" for name in classes)
