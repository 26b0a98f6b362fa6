"""Hostile files, words and folders: what is laid out, what is typed, and what must hold afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MARKER = "MARKER"  # in a payload: the path of a file that it tries to make outside the working folder
OUTSIDE = "OUTSIDE"  # the folder of that file
EVIL_MODULE = "import pathlib\npathlib.Path(r'MARKER').touch()\nclass Callback:\n    pass\n"
TOUCH = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [MARKER]}}"
OPEN = "{_target_: builtins.open, file: MARKER, mode: w}"
RUN = "{_target_: subprocess.run, args: [touch, MARKER]}"


@dataclass
class Payload:
    """What is typed in a folder with these files; `harmless`: it may also do what it says, without any harm."""

    name: str
    words: str
    files: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, Path], None] | None = None  # of the working folder and the one outside
    harmless: bool = False
    environment: dict[str, str] = field(default_factory=dict)


class Sandbox:
    """A working folder, and one outside that nothing may write into."""

    def __init__(self, place: Path):
        self.work, self.outside = place / "work", place / "outside"
        self.work.mkdir()
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("precious")
        (self.outside / "last.pt").write_text("precious")
        self.before: dict[Path, bytes] = {}

    def filled(self, text: str) -> str:
        return text.replace(MARKER, str(self.outside / "marker")).replace(OUTSIDE, str(self.outside))

    def lay_out(self, payload: Payload) -> list[str]:
        """Write the files; gives the words to type."""
        for name, text in payload.files.items():
            file = self.work / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.filled(text))
        if payload.prepare is not None:
            payload.prepare(self.work, self.outside)
        self.before = self.seen()
        return [self.filled(word) for word in payload.words.split()]

    def seen(self) -> dict[Path, bytes]:
        """All files outside, with what they hold."""
        return {Path(at) / name: (Path(at) / name).read_bytes() for at, _, names in os.walk(self.outside) for name in names}

    def check(self, payload: Payload, code: int, err: str) -> None:
        """Nothing ran, nothing was written outside, and whoever is refused reads one line."""
        assert self.seen() == self.before, f"{payload.name}: wrote outside"
        assert not list(self.work.rglob("marker")), f"{payload.name}: ran"
        if payload.harmless and code == 0:
            return
        lines = [line for line in err.splitlines() if line.strip()]
        assert 2 <= code <= 5, f"{payload.name}: exit code {code}: {err}"
        assert len(lines) == 1, f"{payload.name}: {err}"
        assert lines[0].startswith("error: "), f"{payload.name}: {err}"
        assert "Traceback" not in err
