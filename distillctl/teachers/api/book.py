"""What a ledger says, entry by entry: answers by the key of their request, what was spent, and what an endpoint was found to understand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from distillctl.entries import Malformed, integer, mapping, text
from distillctl.files import parse_json
from distillctl.teachers.api.money import NOTHING, Price
from distillctl.teachers.api.replies import LONGEST_TEXT, LONGEST_TOKEN, MOST_COUNTED, MOST_TOKENS, Answer, Choice, is_number
from distillctl.teachers.api.requests import Dialect
from distillctl.teachers.api.tokens import Usage

FORMAT_VERSION = 1
PriceOf = Callable[[str], Price | None]


@dataclass
class Cost:
    """What requests of one kind came to. money: of those that had a price when they were paid; unpriced: tokens, by model, of the others."""

    money: Decimal = NOTHING
    usage: Usage = field(default_factory=Usage)
    unpriced: dict[str, Usage] = field(default_factory=dict)

    def add(self, model: str, usage: Usage, money: Decimal | None) -> None:
        self.usage += usage
        if money is None:
            self.unpriced[model] = self.unpriced.get(model, Usage()) + usage
        else:
            self.money += money

    def total(self, price_of: PriceOf) -> Decimal:
        """By the prices of today for what had none."""
        prices = {model: price_of(model) for model in self.unpriced}
        return self.money + sum((price.of(self.unpriced[model]) for model, price in prices.items() if price), NOTHING)


@dataclass
class Begun:
    """A request that was sent. most: what it can have taken. money: what that costs; None without a price."""

    model: str
    most: Usage
    money: Decimal | None


class Book:
    """The entries of a ledger in the order in which they were written; `take` is the one way in, so that a book that is read equals one that was kept.

    A request that was begun and of which nothing more is said, as the process was killed, counts as what it can have cost at most; so
    does one that failed after the endpoint may have answered.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.dialects: dict[str, Dialect] = {}
        self.begun: dict[int, Begun] = {}
        self.requests = 0
        self.answered, self.lost = Cost(), Cost()
        self.counted_tokens = self.counted_bytes = 0

    def take(self, entry: Mapping[str, Any]) -> None:
        """Raises Malformed, with nothing changed."""
        kind = text(entry, "kind")
        if kind == "begun":
            number = integer(entry, "id", low=self.requests)
            found = Begun(text(entry, "model"), usage_of(entry, "most"), money_of(entry))
            self.begun[number], self.requests = found, number + 1
        elif kind == "answer":
            self.take_answer(entry)
        elif kind == "failed":
            begun = self.begun.pop(integer(entry, "id", low=0), None)
            if begun is not None and text(entry, "paid") == "maybe":
                self.lost.add(begun.model, begun.most, begun.money)
        elif kind == "dialect":
            self.dialects[text(entry, "key")] = Dialect(
                **{name: text(entry, name) for name in ("way", "form", "limit")}, several=entry.get("several") is True
            )
        elif kind == "ledger":
            integer(entry, "format", low=FORMAT_VERSION, high=FORMAT_VERSION, unit=", of this version of distillctl")
        else:
            raise Malformed(f"kind has to be known, and is {kind[:40]!r}")

    def take_answer(self, entry: Mapping[str, Any]) -> None:
        """Usage is as the endpoint counted, or where it does not what the request can have taken."""
        number, key, model = integer(entry, "id", low=0), text(entry, "key"), text(entry, "model")
        usage, counted, size = usage_of(entry, "usage"), entry.get("counted") is True, integer(entry, "bytes", low=0)
        answer = Answer(tuple(map(choice_of, listed(entry, "choices"))), usage if counted else None)
        self.answered.add(model, usage, money_of(entry))
        if counted:
            self.counted_tokens, self.counted_bytes = self.counted_tokens + usage.prompt, self.counted_bytes + size
        self.answers[key] = answer
        self.begun.pop(number, None)  # somebody may have taken a damaged line away

    def spent(self, price_of: PriceOf) -> Decimal:
        """Money, as a bound from above: see the class."""
        in_flight = Cost()
        for begun in self.begun.values():
            in_flight.add(begun.model, begun.most, begun.money)
        return sum((cost.total(price_of) for cost in (self.answered, self.lost, in_flight)), NOTHING)


def written(entry: Mapping[str, Any]) -> bytes:
    """A line of a ledger: an entry, and the beginning of the SHA-256 of its JSON."""
    return (
        json.dumps({"entry": entry, "sha256": checksum(entry)}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        + b"\n"
    )


def read(line: bytes) -> Mapping[str, Any]:
    """The entry of a line. Raises ValueError and Malformed for what is none, or is damaged."""
    found = parse_json(line)
    if not isinstance(found, dict):
        raise Malformed("it is no entry")
    entry = mapping(found, "entry")
    if text(found, "sha256") != checksum(entry):
        raise Malformed("its checksum is wrong")
    return entry


def checksum(entry: Mapping[str, Any]) -> str:
    content = json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return hashlib.sha256(content).hexdigest()[:16]


def dialect_entry(key: str, dialect: Dialect) -> dict[str, Any]:
    return {"kind": "dialect", "key": key, **asdict(dialect)}


def begun_entry(number: int, model: str, most: Usage, money: Decimal | None) -> dict[str, Any]:
    return {"kind": "begun", "id": number, "model": model, "most": [most.prompt, most.answer], "money": spelled(money)}


def answer_entry(number: int, model: str, key: str, answer: Answer, most: Usage, money: Decimal | None, size_bytes: int) -> dict[str, Any]:
    usage = answer.usage or most
    return {
        "kind": "answer",
        "id": number,
        "model": model,
        "key": key,
        "usage": [usage.prompt, usage.answer],
        "counted": answer.usage is not None,
        "money": spelled(money),
        "bytes": size_bytes,
        "choices": [{"text": choice.text, "top": [list(pair) for pair in choice.top] if choice.top else None} for choice in answer.choices],
    }


def failed_entry(number: int, why: str, maybe_paid: bool) -> dict[str, Any]:
    return {"kind": "failed", "id": number, "paid": "maybe" if maybe_paid else "no", "why": why[:500]}


def spelled(money: Decimal | None) -> str | None:
    return None if money is None else format(money, "f")


def money_of(entry: Mapping[str, Any]) -> Decimal | None:
    found = text(entry, "money", None)
    try:
        money = None if found is None else Decimal(found)
    except InvalidOperation:
        raise Malformed("money is no number") from None
    if money is not None and not (money.is_finite() and 0 <= money < 10**12):
        raise Malformed("money is no amount")
    return money


def usage_of(entry: Mapping[str, Any], name: str) -> Usage:
    found = listed(entry, name)
    if len(found) != 2 or not all(type(count) is int and 0 <= count <= MOST_COUNTED for count in found):
        raise Malformed(f"{name} has to be tokens of prompt and answer")
    return Usage(*found)


def choice_of(found: Any) -> Choice:
    words = text(found, "text") if isinstance(found, dict) else ""
    top = found.get("top") if isinstance(found, dict) else None
    if not isinstance(found, dict) or len(words) > LONGEST_TEXT:
        raise Malformed("a choice is {text, top}")
    if top is None:
        return Choice(words)
    whole = isinstance(top, list) and 0 < len(top) <= MOST_TOKENS and all(isinstance(pair, list) and len(pair) == 2 for pair in top)
    if not whole or not all(isinstance(token, str) and len(token) <= LONGEST_TOKEN and is_number(value) for token, value in top):
        raise Malformed("top has to be tokens with numbers")
    return Choice(words, tuple((token, float(value)) for token, value in top))


def listed(entry: Mapping[str, Any], name: str) -> list[Any]:
    found = entry.get(name)
    if not isinstance(found, list):
        raise Malformed(f"{name} has to be a list")
    return found
