"""Signals: the first asks the loop to save and leave, the second leaves at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """Takes over the signals while it is used as a context; afterwards they are as they were."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in ASKING:  # also where the shell started us in the background and SIGINT is ignored
            self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:  # from a parent or a scheduler; may come more than once
            self.signal_number = self.signal_number or signal.SIGTERM
        elif self.signal_number is not None:
            os._exit(128 + number)
        else:
            self.signal_number = number
            os.write(2, b"\nstopping: saving after this step; once more leaves at once\n")

    def __call__(self) -> bool:
        return self.signal_number is not None
