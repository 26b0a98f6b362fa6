"""Hold requests back so that no minute has more of them, or of their tokens, than a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from distillctl.errors import ConfigError
from distillctl.teachers.api.clock import Clock

WINDOW_S = 60.0


@dataclass
class Admission:
    """A request that was let through. tokens: what it was expected to take at most, then what it took."""

    time_s: float
    tokens: int


def delay_s(admitted: Sequence[Admission], now_s: float, tokens: int, requests_limit: int | None, tokens_limit: int | None) -> float:
    """Seconds until one more request of so many tokens fits: every window of a minute is to hold both limits.

    admitted: oldest first, of the last minute. Exact, where a bucket that fills evenly would let a burst of twice the limit into a minute.
    """
    until = now_s
    if requests_limit is not None and len(admitted) >= requests_limit:
        until = max(until, admitted[len(admitted) - requests_limit].time_s + WINDOW_S)
    if tokens_limit is not None:
        total = tokens + sum(each.tokens for each in admitted)
        for each in admitted:
            if total <= tokens_limit:
                break
            total -= each.tokens
            until = max(until, each.time_s + WINDOW_S)
    return until - now_s


class Pace:
    """Lets requests through one after the other, in the order in which they came."""

    def __init__(self, clock: Clock, requests_per_minute: int | None = None, tokens_per_minute: int | None = None):
        self.clock, self.requests, self.tokens = clock, requests_per_minute, tokens_per_minute
        self.admitted: deque[Admission] = deque()
        self.held_until_s = 0.0
        self.turn = asyncio.Lock()

    async def admit(self, tokens: int) -> Admission:
        """Returns when a request of at most so many tokens may be sent. Raises ConfigError where it never may."""
        if self.tokens is not None and tokens > self.tokens:
            raise ConfigError(
                f"teacher.tokens_per_minute={self.tokens}: one request may take {tokens:,} tokens; raise it, or lower teacher.answer_tokens"
            )
        async with self.turn:
            while True:
                now = self.clock.now()
                while self.admitted and self.admitted[0].time_s + WINDOW_S <= now:
                    self.admitted.popleft()
                wait = max(self.held_until_s - now, delay_s(self.admitted, now, tokens, self.requests, self.tokens))
                if wait <= 0:
                    break
                await self.clock.sleep(wait)
            admission = Admission(now, tokens)
            self.admitted.append(admission)
            return admission

    def hold(self, seconds: float) -> None:
        """Send nothing for so long: a server that says `Retry-After` means everybody."""
        self.held_until_s = max(self.held_until_s, self.clock.now() + seconds)
