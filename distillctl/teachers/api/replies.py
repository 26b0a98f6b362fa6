"""What an endpoint answers: read entry by entry, as it may be anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillctl.files import parse_json
from distillctl.teachers.api.failures import Failed, message_of
from distillctl.teachers.api.scores import Top
from distillctl.teachers.api.tokens import Usage

LONGEST_TEXT = 4000  # characters of an answer that are kept: its end, where the label is
LONGEST_TOKEN = 100
MOST_TOKENS = 64
MOST_COUNTED = 10**9


@dataclass(frozen=True)
class Choice:
    """One answer. top: the likeliest first tokens; None where the endpoint gave none."""

    text: str
    top: Top | None = None


@dataclass(frozen=True)
class Answer:
    """What one request brought. usage: as the endpoint counts; None where it does not."""

    choices: tuple[Choice, ...]
    usage: Usage | None


def answer_of(content: bytes, n: int) -> Answer:
    """An answer of at most n choices, of chat completions or of completions. Raises Failed."""
    try:
        found = parse_json(content)
    except ValueError:
        raise Failed("an answer that is no JSON, or was cut short", maybe_paid=True) from None
    if isinstance(found, dict) and found.get("error"):
        raise Failed(f"an error inside an answer: {message_of(found)}", maybe_paid=True)
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise Failed("an answer without choices", maybe_paid=True)
    return Answer(tuple(map(choice_of, choices[:n])), usage_of(found.get("usage")))


def choice_of(choice: Mapping[str, Any]) -> Choice:
    message, logprobs = choice.get("message"), choice.get("logprobs")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return Choice(text[-LONGEST_TEXT:] if isinstance(text, str) else "", top_of(logprobs) if isinstance(logprobs, dict) else None)


def top_of(logprobs: Mapping[str, Any]) -> Top | None:
    """Of the first token: its likeliest alternatives and, where it is not among them, itself."""
    content = logprobs.get("content")
    if isinstance(content, list) and content and isinstance(content[0], dict):  # chat completions
        first = content[0]
        others = first.get("top_logprobs")
        pairs = [(each.get("token"), each.get("logprob")) for each in others if isinstance(each, dict)] if isinstance(others, list) else []
        own = (first.get("token"), first.get("logprob"))
    else:  # completions
        tables, tokens, values = (logprobs.get(name) for name in ("top_logprobs", "tokens", "token_logprobs"))
        pairs = list(tables[0].items()) if isinstance(tables, list) and tables and isinstance(tables[0], dict) else []
        own = (tokens[0], values[0]) if isinstance(tokens, list) and isinstance(values, list) and tokens and values else (None, None)
    every: list[tuple[Any, Any]] = [own, *pairs]
    found = {token[:LONGEST_TOKEN]: float(value) for token, value in every if isinstance(token, str) and is_number(value)}
    return tuple(list(found.items())[:MOST_TOKENS]) or None if pairs else None


def usage_of(found: Any) -> Usage | None:
    counts = [found.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(found, dict) else [None]
    if not all(type(count) is int and 0 <= count <= MOST_COUNTED for count in counts):
        return None
    return Usage(*counts)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
