"""What is sent: the body of a request in the dialect that an endpoint speaks, and the key that its answer is kept by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distillctl.config.api import ApiConfig
from distillctl.teachers.api.tokens import Usage, at_most
from distillctl.teachers.api.words import LabelWords

LOGPROBS, VOTES = "logprobs", "votes"
SCHEMA, OBJECT, TEXT = "json_schema", "json_object", "text"
SIMPLER = {SCHEMA: OBJECT, OBJECT: TEXT}
TOP = 20  # tokens: the most that OpenAI and vLLM give
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
ABOUT_LIMIT = re.compile(r"max_completion_tokens")
ABOUT_SEVERAL = re.compile(r"\bn\b|best_of|\bchoices?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """What an endpoint understands. form: how a vote is written. several: whether one request may ask for several answers. limit: how it
    calls the most tokens of an answer."""

    way: str
    form: str = TEXT
    several: bool = True
    limit: str = "max_tokens"


@dataclass(frozen=True)
class Request:
    """A prompt in a dialect. body: without `n`, how many answers are asked for. number: of the requests of this prompt, from 0."""

    path: str
    body: Mapping[str, Any]
    key: str
    n: int
    most: Usage
    size_bytes: int

    @property
    def content(self) -> bytes:
        return encoded({**self.body, "n": self.n} if self.n > 1 else self.body)


def first_dialect(ask: str, endpoint: str) -> Dialect:
    """What is tried first."""
    return voting(endpoint) if ask == VOTES else Dialect(LOGPROBS)


def voting(endpoint: str, limit: str = "max_tokens") -> Dialect:
    return Dialect(VOTES, SCHEMA if endpoint == "chat" else TEXT, limit=limit)


def simpler(dialect: Dialect, refusal: str, ask: str, endpoint: str) -> Dialect | None:
    """What to try where a dialect was refused in these words; None where nothing simpler is left."""
    if dialect.limit == "max_tokens" and ABOUT_LIMIT.search(refusal):
        return replace(dialect, limit="max_completion_tokens")
    if dialect.way == LOGPROBS:
        return None if ask == LOGPROBS else voting(endpoint, dialect.limit)
    form = SIMPLER.get(dialect.form)
    if dialect.several and (form is None or ABOUT_SEVERAL.search(refusal)):
        return replace(dialect, several=False)
    return None if form is None else replace(dialect, form=form)


def request(dialect: Dialect, settings: ApiConfig, base: str, prompt: str, words: LabelWords, n: int = 1, number: int = 0) -> Request:
    """base: the endpoint's name, which is part of the key."""
    path, body = PATHS[settings.endpoint], body_of(dialect, settings, prompt, words)
    content = encoded(body)
    key = digest({"url": base, "path": path, "body": body, "number": number})
    answer = body[dialect.limit] * n
    return Request(path, body, key, n, Usage(at_most(len(content)), answer), len(prompt.encode()))


def body_of(dialect: Dialect, settings: ApiConfig, prompt: str, words: LabelWords) -> dict[str, Any]:
    """Without `n`. A chat is told behind the prompt how to answer; a base model goes on with the prompt as it is."""
    chat = settings.endpoint == "chat"
    said = f"{prompt}\n\n{told(dialect, words)}" if chat else prompt
    body: dict[str, Any] = {"model": settings.model}
    body |= {"messages": [{"role": "user", "content": said}]} if chat else {"prompt": said}
    if dialect.way == LOGPROBS:
        # at temperature 1, as some servers scale the logarithms that they tell; which token is drawn does not matter
        return {**body, dialect.limit: 1, "temperature": 1, **({"logprobs": True, "top_logprobs": TOP} if chat else {"logprobs": TOP})}
    body |= {dialect.limit: settings.answer_tokens, "temperature": settings.vote_temperature}
    if not chat:
        return {**body, "stop": ["\n"]}
    return {**body, **response_format(dialect.form, words)}


def told(dialect: Dialect, words: LabelWords) -> str:
    """The sentence behind a prompt. JSON is named in it, as OpenAI refuses json_object otherwise."""
    if dialect.way == LOGPROBS:
        return f"Answer with one of these and nothing else: {', '.join(first for first, *_ in words.words)}"
    labels = json.dumps(list(words.classes), ensure_ascii=False)
    if dialect.form == TEXT:
        return f"Answer with one of these labels and nothing else: {labels}"
    return f'Answer as JSON, {{"label": "..."}}, with one of these labels: {labels}'


def response_format(form: str, words: LabelWords) -> dict[str, Any]:
    if form == TEXT:
        return {}
    if form == OBJECT:
        return {"response_format": {"type": OBJECT}}
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(words.classes)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    return {"response_format": {"type": SCHEMA, "json_schema": {"name": "label", "strict": True, "schema": schema}}}


def settings_key(settings: ApiConfig, base: str, words: LabelWords) -> str:
    """By which the dialect that was found is kept: of what it was found with."""
    return digest(
        {
            "url": base,
            "model": settings.model,
            "endpoint": settings.endpoint,
            "ask": settings.ask,
            "words": [words.classes, words.words, words.exact],
        }
    )


def encoded(content: Mapping[str, Any]) -> bytes:
    """A prompt may hold half of a surrogate pair, which UTF-8 cannot: it is sent as a question mark."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def digest(content: Any) -> str:
    """SHA-256 of JSON in a fixed order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
