"""Every command that the documents show composes: its keys exist, and its values are of their types."""

import re
import shlex
from pathlib import Path

import pytest

from distillctl.commands import COMMANDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "Dockerfile", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.yaml")),
]
LINE = re.compile(rf"(?:^|[\s`>])distillctl ((?:{'|'.join(COMMANDS)})(?: [^`|&]*)?)")
ONES_OWN = ("train outputs/", "resume=", "--config-dir", "--trust", "--help", "hellinger", "noisy", "mine")


def shown() -> list[str]:
    """The commands in code, a line each."""
    found: set[str] = set()
    for file in DOCUMENTS:
        text = re.sub(r"\\\n[ #]*", "", file.read_text())
        blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if file.suffix == ".md" else [text]
        found |= {line[1].split(" #")[0].strip() for block in blocks for line in map(LINE.search, block.splitlines()) if line}
    return sorted(found)


def test_documents_show_commands():
    assert len(shown()) > 25


@pytest.mark.parametrize("line", [line for line in shown() if not any(word in line for word in ONES_OWN)])
def test_a_command_of_the_documents_composes(line: str, distillctl, tmp_path: Path):
    command, *words = shlex.split(line)
    sweep = "-m" in words
    single = [word.split(",")[0] if sweep and "[" not in word else word for word in words if word not in ("-m", "--plan", "...")]
    finished = distillctl(command, *single, "--cfg", "job", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, ""), line
