"""Signals: the first asks the loop to save and leave, the second leaves at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import cache
from types import FrameType

from distillctl import requeue

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
WARNING = (signal.SIGUSR1, signal.SIGUSR2)  # of a parent, or of a scheduler whose time is up; may come more than once
PARENT = "DISTILLCTL_PARENT"  # in the environment of a rank: the process that started it, and watches over it


class StopRequest:
    """Takes over the signals while it is used as a context; afterwards they are as they were."""

    latest: StopRequest | None = None  # in this process

    def __init__(self) -> None:
        StopRequest.latest = self
        self.signal_number: int | None = None
        self.launcher = launcher()
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
        if number in WARNING or self.watched_over or (number == signal.SIGTERM and requeue.is_queued()):
            self.signal_number = self.signal_number or (signal.SIGTERM if number in WARNING else number)
        elif self.signal_number is not None:
            os._exit(128 + number)
        else:
            self.signal_number = number
            os.write(2, b"\nstopping: saving after this step; once more leaves at once\n")

    def __call__(self) -> bool:
        if self.signal_number is None and self.launcher is not None and not lives(*self.launcher):
            self.signal_number = signal.SIGTERM  # nobody waits for the result
        return self.signal_number is not None


def asked() -> bool:
    """Whether the last request of this process was made: what would begin after it need not."""
    return StopRequest.latest is not None and StopRequest.latest()


@cache
def launcher() -> tuple[int, int] | None:
    """Who started this process to work for it, and its parent now, which may be another; None where a shell did."""
    starter = multiprocessing.parent_process()
    return (starter.pid, os.getppid()) if starter is not None and starter.pid is not None else None


def lives(starter: int, parent: int) -> bool:
    """Whether both are there; a process whose parent ends is given another one."""
    if os.getppid() != parent:
        return False
    try:
        os.kill(starter, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals wait until the end of the block. A process that is started in it gets none before it unblocks them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def pass_on() -> Iterator[None]:
    """Signals go to the processes that a launcher has started, which save; we wait for them. A second one leaves at once."""
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen and number not in WARNING and not (number == signal.SIGTERM and requeue.is_queued()):
            os._exit(128 + number)
        seen.append(number)
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                if child.pid is not None:
                    os.kill(child.pid, signal.SIGUSR1)
        os.write(2, b"\nstopping: the jobs save after this step; once more leaves at once\n")

    before = {number: signal.signal(number, handle) for number in ASKING if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
