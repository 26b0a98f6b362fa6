"""What can go wrong for a user: one line each, with the exit code that a script can rely on."""

import difflib
import os.path
from collections.abc import Iterable
from pathlib import Path

# said by whoever notices it first
WORKER_DIED = "a data worker died (out of memory, or of /dev/shm?); resume the run, with dataset.workers=0 to see the cause"
INTERNAL_ERROR = 70  # the exit code of what no user can solve


class UserError(Exception):
    """A problem that the user can solve, or several, an argument each. Each names the value, the key and the way out."""

    exit_code = 2

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(map(str, self.args))

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(UserError):
    """The command line or a config file asks for something that cannot be."""


class DataError(UserError):
    """A data set that is missing, unreadable or not what it was."""

    exit_code = 3


class BadSample(DataError):
    """A sample that cannot be used. file: where it lies, if it was met while samples were read in batches."""

    file: Path | None = None


class CheckpointError(UserError):
    """Weights or a run folder that cannot be used."""

    exit_code = 4


class MachineError(UserError):
    """What this machine lacks: a device, memory, disk, a permission, a port, a free lock, a network."""

    exit_code = 5


class Diverged(UserError):
    """A loss that is no longer a finite number."""

    exit_code = 6


class Interrupted(UserError):
    """Stopped by a signal, after a save."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """What went wrong, in one line; of an error without words its kind. Some libraries begin theirs with an empty one."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names closest to a mistyped one, best first; none that is much further off than the best."""
    names = sorted(set(known))
    slips = [name for name in names if one_slip(word, name)]
    if slips:
        return slips[:count]
    close = difflib.get_close_matches(word, names, n=count, cutoff=0.55)
    return [name for name in close if likeness(word, name) > likeness(word, close[0]) - 0.12]


def one_slip(word: str, name: str) -> bool:
    """Whether one letter too many, too few, another one, or two swapped ones make the difference."""
    start = len(os.path.commonprefix([word, name]))
    left, right = word[start:], name[start:]
    end = len(os.path.commonprefix([left[::-1], right[::-1]]))
    left, right = left[: len(left) - end], right[: len(right) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def likeness(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """`did you mean a, b?`, or where nothing is close, what there is: `known: a, b, c`."""
    known = sorted(set(known))
    close = nearest(word, known, count)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(known[:12])
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"
