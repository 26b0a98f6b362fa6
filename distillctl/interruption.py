"""Signals: the first asks the loop to save and leave, the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PARENT = "DISTILLCTL_PARENT"  # in the environment of a rank: the process that started it, and watches over it


class StopRequest:
    """Takes over the signals while it is used as a context; afterwards they are as they were."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.before: dict[int, object] = {}
        self.watched_over = os.environ.get(PARENT) == str(os.getppid())

    def __enter__(self) -> StopRequest:
        for number in ASKING:  # also where the shell started us in the background and SIGINT is ignored
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup means that
            self.before[number] = signal.signal(number, self.handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1 or self.watched_over:  # from a parent or a scheduler; may come more than once
            self.signal_number = self.signal_number or (signal.SIGTERM if number == signal.SIGUSR1 else number)
        elif self.signal_number is not None:
            os._exit(128 + number)
        else:
            self.signal_number = number
            os.write(2, b"\nstopping: saving after this step; once more leaves at once\n")

    def __call__(self) -> bool:
        return self.signal_number is not None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals wait until the end of the block. A process that is started in it gets none before it unblocks them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
