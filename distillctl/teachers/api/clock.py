"""Time, as what waits is given it: that of the machine, or in tests one that nobody has to wait for."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds."""

    def now(self) -> float:
        """Since some moment; never goes back."""
        ...

    def wall(self) -> float:
        """Since 1970, for dates that a server names."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class MachineClock:
    """That of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
