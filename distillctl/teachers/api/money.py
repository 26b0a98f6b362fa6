"""What requests cost, exactly, and a purse that no request may overdraw."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from distillctl.errors import ConfigError, did_you_mean
from distillctl.teachers.api.tokens import Usage

MILLION = 1_000_000
DEAREST = 1e6  # for a million tokens; more is a slip
PARTS = ("input", "output")
NOTHING = Decimal(0)


@dataclass(frozen=True)
class Price:
    """Money for a million tokens of prompts and of answers, of whatever currency the file is."""

    input: Decimal
    output: Decimal

    def of(self, usage: Usage) -> Decimal:
        return (self.input * usage.prompt + self.output * usage.answer) / MILLION


def prices_of(content: Any, place: str) -> dict[str, Price]:
    """Prices by model, of what a file says: `{model: {input: 0.15, output: 0.60}}`. place: the file's name. Raises ConfigError."""
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"teacher.prices={place}: expected prices by model, as in {{gpt-4o-mini: {{input: 0.15, output: 0.60}}}}")
    found = {}
    for model, parts in content.items():
        if not isinstance(parts, Mapping) or set(parts) != set(PARTS) or not all(map(is_price, parts.values())):
            raise ConfigError(
                f"teacher.prices={place}: {str(model)[:80]}: expected input and output, money for a million tokens, "
                "as in {input: 0.15, output: 0.60}"
            )
        found[str(model)] = Price(*(exact(parts[name]) for name in PARTS))
    return found


def is_price(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= DEAREST


def exact(value: float) -> Decimal:
    """The decimal number that was written, 0.15 and not the binary number next to it."""
    return Decimal(repr(value))


def price_of(model: str, prices: Mapping[str, Price], place: str) -> Price:
    """Raises ConfigError for a model that has none."""
    if model not in prices:
        raise ConfigError(f"teacher.prices={place}: no price of teacher.model={model}; {did_you_mean(model, prices)}")
    return prices[model]


def spelled(money: Decimal) -> str:
    """Four digits behind the point, six of what is less than a cent."""
    return f"{money:.6f}" if NOTHING < money < Decimal("0.01") else f"{money:.4f}"


class Overdrawn(Exception):
    """What a request could cost is more than is left."""

    def __init__(self, cost: Decimal):
        super().__init__(cost)
        self.cost = cost


class Purse:
    """Money that was spent, and that requests in flight may come to. budget: None for no limit."""

    def __init__(self, budget: Decimal | None, spent: Decimal = NOTHING):
        self.budget, self.spent, self.reserved, self.in_flight = budget, spent, NOTHING, 0
        self.freed = asyncio.Event()

    async def reserve(self, cost: Decimal) -> None:
        """Put aside what a request can cost at most; where that lacks while others are in flight, wait for what they leave.

        Raises Overdrawn where nobody is in flight and it lacks.
        """
        while self.budget is not None and self.spent + self.reserved + cost > self.budget:
            if not self.in_flight:
                raise Overdrawn(cost)
            self.freed.clear()
            await self.freed.wait()
        self.reserved += cost
        self.in_flight += 1

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """A request is over, and has cost so much."""
        self.reserved -= reserved
        self.in_flight -= 1
        self.spent += cost
        self.freed.set()
