"""Work at many items at once, and stop as one: who waits leaves at once, who has a request in flight ends it first, as it is paid for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
POLL_S = 0.05


class Halted(Exception):
    """Somebody else's problem ended the work."""


class Crew:
    """asked: looked at again and again; once it is true the crew is halted."""

    def __init__(self, asked: Callable[[], bool]):
        self.asked = asked
        self.problem: BaseException | None = None
        self.busy: set[asyncio.Task[Any]] = set()
        self.halted = False

    def check(self) -> None:
        """Raises Halted once nothing more is to be begun."""
        if self.halted:
            raise Halted

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """What is done here is ended even where the crew is halted."""
        task = asyncio.current_task()
        assert task is not None
        self.busy.add(task)
        try:
            yield
        finally:
            self.busy.discard(task)

    async def do(self, work: Callable[[Item], Awaitable[None]], items: Iterable[Item], hands: int) -> None:
        """Raises what the first that failed has raised, and Halted where that was asked for, once nothing is in flight any more."""
        queue = iter(items)

        async def hand() -> None:
            for item in queue:
                self.check()
                await work(item)

        tasks = [asyncio.create_task(hand()) for _ in range(hands)]
        try:
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=POLL_S, return_when=asyncio.FIRST_EXCEPTION)
                problems = [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
                self.problem = self.problem or next(iter(problems), None)
                self.halted = self.halted or self.problem is not None or self.asked()
                if self.halted:
                    for task in waiting - self.busy:
                        task.cancel()
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        if self.problem is not None:
            raise self.problem
        if self.halted:
            raise Halted
