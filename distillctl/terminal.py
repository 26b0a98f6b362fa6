"""What is written for people to read: text that no terminal acts on, and streams that outlast a closed or poor one. No torch here."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any, NoReturn, TextIO

from distillctl.errors import UserError

# Whatever a terminal might act on: controls, what turns the direction of writing, other line ends; and bytes that were no text.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 2000  # characters of what is said of a problem
FORMULA = re.compile(r"[=@\t\r\n]|[+-](?![\d.]+$)")  # but for numbers
IN_ASCII = str.maketrans({"±": "+/-", "→": "->", "×": "x", "…": "...", "≥": ">=", "≤": "<=", "·": ".", "µ": "u"})


def visible(text: str, lines: bool = True) -> str:
    """Words from outside as text: what a terminal would act on is spelled, `\\x1b`; without `lines` line ends and tabs are too."""
    spelled = ACTING.sub(lambda found: spelling(found[0]), text)
    return spelled if lines else re.sub("[\n\t]", lambda found: spelling(found[0]), spelled)


def spelling(character: str) -> str:
    """As Python and JSON would write it."""
    code = ord(character)
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or (f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}")


def cell(word: Any) -> Any:
    """A cell of CSV: text that a spreadsheet would take for a formula begins with an apostrophe, by which it stays text."""
    return f"'{word}" if isinstance(word, str) and FORMULA.match(word) else word


class Stream:
    """stdout or stderr, looked up anew at each use. Characters that its encoding lacks are spelled in others.

    patient: once nobody reads it any more (a closed terminal, a pipe to `head`, a full disk) what is written goes nowhere and the work goes
    on; else the error is raised, and the command ends as others do in a pipe.
    """

    def __init__(self, name: str = "stdout", patient: bool = False):
        self.name, self.patient = name, patient

    @property
    def now(self) -> TextIO | None:
        """None where the shell has closed it, as `>&-` does. A live display puts itself before the file, which is what we write to."""
        found: TextIO | None = getattr(sys, self.name)
        return getattr(found, "rich_proxied_file", found)

    @property
    def encoding(self) -> str:
        return (self.now and self.now.encoding) or "utf-8"

    def write(self, text: str) -> int:
        with self.outlasting():
            if self.now is not None:
                self.now.write(as_encoded(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        with self.outlasting():
            if self.now is not None:
                self.now.flush()

    def isatty(self) -> bool:
        return self.now is not None and self.now.isatty()

    def fileno(self) -> int:
        if self.now is None:
            raise OSError(f"{self.name} is closed")
        return self.now.fileno()

    @contextlib.contextmanager
    def outlasting(self) -> Any:
        try:
            yield
        except (OSError, ValueError):  # ValueError: somebody has closed the file itself
            if not self.patient:
                raise
            with contextlib.suppress(OSError, ValueError):
                abandon(self.fileno())


def abandon(descriptor: int) -> None:
    """Let what is still written there go nowhere: also what is in buffers, and what other libraries print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def leave_the_pipe() -> NoReturn:
    """The reader has seen enough, as in `distillctl losses | head`."""
    abandon(Stream().fileno())
    raise SystemExit(141)


def as_encoded(text: str, encoding: str) -> str:
    """Text that the encoding can hold: `±` as `+/-` where there is none."""
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(IN_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def say(text: str = "", patient: bool = False) -> None:
    """A line on stdout."""
    put(text, Stream("stdout", patient))


def complain(text: str) -> None:
    """A line on stderr, which nothing fails for."""
    put(text, Stream("stderr", patient=True))


def complain_of(error: UserError) -> None:
    """A line for each of its problems."""
    for problem in error.problems:
        complain("error: " + shortened(visible(problem, lines=False)))


def shortened(line: str) -> str:
    """The beginning and the end, where the way out is, of a line that holds a name without end."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"


def put(text: str, stream: Stream) -> None:
    stream.write(visible(text) + "\n")
    stream.flush()
