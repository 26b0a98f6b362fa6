"""Words from outside in Markdown: names and paths stay text, whatever they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from distillctl.terminal import visible

BACKSLASHED = re.compile(r"[\\`*_{}\[\]()#+!.]")  # what every reader of Markdown takes as itself behind a backslash
NUMBERED = re.compile(r"""[&<>"'|:@~$=^]""")  # HTML, tables, links that are made of what looks like one, formulas


def plain(words: object) -> str:
    """Text of one line: no tag, link, image, mention, list or table can come of it. What a terminal would act on is spelled."""
    numbered = NUMBERED.sub(lambda found: f"&#{ord(found[0])};", visible(str(words), lines=False).strip())
    parts = re.split(r"(&#\d+;)", numbered)
    text = "".join(part if part.startswith("&#") else BACKSLASHED.sub(r"\\\g<0>", part) for part in parts)
    return f"\\{text}" if text.startswith("-") else text


def code_block(lines: str, language: str = "") -> str:
    """A block that ends where it is meant to: its fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(lines)}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Cells are Markdown already. numbers: whether all columns but the first are."""
    rules = ["---", *(("---:" if numbers else "---") for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *rows))
