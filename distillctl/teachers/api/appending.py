"""Append lines to a file, each on the disk before its writer goes on; what several write meanwhile goes there together."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable


class Appender:
    """handle: of a file opened to append, which nobody else writes. size: of what is on the disk.

    To wait for the disk takes milliseconds, and not in the event loop: while one batch is on its way the lines of the next gather, so that
    many requests in flight do not queue up for it.
    """

    def __init__(self, handle: int, size: int):
        self.handle, self.size = handle, size
        self.waiting: list[tuple[bytes, asyncio.Future[None], Callable[[], None]]] = []
        self.writing: asyncio.Task[None] | None = None

    async def append(self, line: bytes, then: Callable[[], None]) -> None:
        """Returns once the line is on the disk, and `then` was called, in the order of the lines. Raises OSError, with nothing of it there."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((line, done, then))
        if self.writing is None or self.writing.done():
            self.writing = asyncio.create_task(self.write_all())
        await done

    async def write_all(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            try:
                await asyncio.to_thread(self.append_now, b"".join(line for line, _, _ in batch))
            except OSError as error:
                for _, done, _ in batch:
                    if not done.done():  # who waited may have been cancelled
                        done.set_exception(error)
                continue
            for _, done, then in batch:
                then()
                if not done.done():
                    done.set_result(None)

    def append_now(self, content: bytes) -> None:
        """Without others. Raises OSError, with nothing of it there."""
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(self.handle, left) :]
            os.fsync(self.handle)
        except OSError:
            with contextlib.suppress(OSError):  # what then stays there is a line cut short, which the next process takes away
                self.cut(self.size)
            raise
        self.size += len(content)

    def cut(self, size: int) -> None:
        os.ftruncate(self.handle, size)
        os.fsync(self.handle)
        self.size = size
