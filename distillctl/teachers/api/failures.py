"""What the try of a request can end by, besides an answer, and which of it is worth another one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from distillctl.errors import ConfigError, MachineError
from distillctl.files import parse_json
from distillctl.teachers.api.secret import Secret

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)  # with what proxies and hosts of models say when they are overloaded
REFUSALS = (400, 415, 422, 501)
NO_MONEY = "insufficient_quota"  # said as 429, and no wait helps
LONGEST = 300  # characters of what a server says


class Failed(Exception):
    """A try that may go well another time. maybe_paid: whether the endpoint may have answered all the same, and counted it."""

    def __init__(self, why: str, maybe_paid: bool = False, wait_s: float | None = None):
        super().__init__(why)
        self.why, self.maybe_paid, self.wait_s = why, maybe_paid, wait_s

    def __str__(self) -> str:
        return self.why


class Refused(Exception):
    """The endpoint does not take what it was sent."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status, self.said = status, said


class GivenUp(Exception):
    """No try of a request went well."""

    def __init__(self, why: str):
        super().__init__(why)
        self.why = why


def said_by(content: bytes, secret: Secret) -> str:
    """What a server says of an error, without the key, in one line that is not long."""
    text = secret.scrub(content.decode("utf-8", "replace"))
    with contextlib.suppress(ValueError):
        text = message_of(parse_json(text))
    text = " ".join(secret.scrub(text).split())  # JSON may have spelled the key in escapes
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def message_of(found: Any) -> str:
    """The words of an error as JSON, however it is written, and its code."""
    error = found.get("error", found.get("detail", found.get("message"))) if isinstance(found, dict) else found
    if not isinstance(error, dict) or error.get("message") is None:
        return str(error)
    code = error.get("code") or error.get("type")
    return f"{error['message']} ({code})" if isinstance(code, str) else str(error["message"])


@dataclass(frozen=True)
class Place:
    """Where a request was sent, for what is said of it. base: the url, which holds no secret. variable: that the key is looked for in."""

    base: str
    model: str
    has_key: bool
    variable: str


def of_status(status: int, said: str, wait_s: float | None, location: str, place: Place) -> Exception:
    """What a status that is no success means. location: where a redirect leads, which is not followed: the key is for this host."""
    if status == 429 and NO_MONEY in said:
        return MachineError(
            f"teacher.url={place.base}: the account has no credit left (429 {said}); add some, and go on by the same command"
        )
    if status in AGAIN:
        return Failed(f"{status} {said}".strip(), wait_s=wait_s)
    if status in REFUSALS:
        return Refused(status, said)
    kind = MachineError if status in (401, 402, 403) else ConfigError
    return kind(f"teacher.url={place.base}: {meaning(status, said, location, place)}")


def meaning(status: int, said: str, location: str, place: Place) -> str:
    if status == 401 and place.has_key:
        return f"the key in {place.variable} is not accepted (401 {said}); put a valid one into that variable"
    if status == 401:
        return f"a key is needed (401 {said}); put it into the variable {place.variable}, or name another by teacher.key_variable"
    if status in (402, 403):
        return f"teacher.model={place.model} is not open to this key ({status} {said}); take another model, or have the key allowed"
    if status == 404:
        return f"nothing there answers for teacher.model={place.model} (404 {said}); the url ends where the API begins, as .../v1, and the name is the server's"
    if 300 <= status < 400:
        return f"leads on to {location[:200]}, which is not followed, as the key is for this host alone; pass the url that is meant"
    return f"the request is refused ({status} {said})"
