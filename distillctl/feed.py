"""What a step is given, ready when the step is: batches, with the teacher's kept answers to them as a column."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distillctl.types import Batch

AHEAD = 2  # batches: one that a step waits for, and one more
POLL_S = 0.1


class Feed:
    """`batches(epoch, first)` for `fit`. recalling: makes for an epoch what looks up answers for each batch before its step.

    ahead: how many batches are made ready by a thread while steps are computed; 0: each when it is wanted. A batch is a function of its
    place alone, so that this changes no number.
    """

    def __init__(
        self,
        batches: Callable[[int, int], Iterable[Batch]],
        recalling: Callable[[], Callable[[Batch], Batch]] | None = None,
        ahead: int = 0,
    ):
        self.batches, self.recalling, self.ahead = batches, recalling, ahead

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        ready = self.ready(epoch, first)
        return read_ahead(ready, self.ahead) if self.ahead else ready

    def ready(self, epoch: int, first: int) -> Iterator[Batch]:
        recall = self.recalling() if self.recalling is not None else None
        for batch in self.batches(epoch, first):
            yield batch if recall is None else recall(batch)


def read_ahead(items: Iterator[Any], count: int) -> Iterator[Any]:
    """The same items, up to `count` of them taken by a thread before they are asked for. An error comes in its place; who leaves early stops it."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=count)
    enough = threading.Event()

    def put(kind: str, item: Any) -> None:
        while not enough.is_set():
            try:
                return waiting.put((kind, item), timeout=POLL_S)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if enough.is_set():
                    return
            put("end", None)
        except BaseException as error:  # whoever takes the items raises it
            put("error", error)

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        enough.set()
        thread.join()
