"""What must hold of the keys of a teacher behind an endpoint, beyond their types and ranges. No torch here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields
from urllib.parse import SplitResult, parse_qsl, urlsplit

from distillctl.config.api import API, ApiConfig

DOORS = ("/chat/completions", "/completions")  # which are `endpoint`, and no part of the base
SECRET = re.compile(r"key|token|secret|pass|auth|sig|code|cred", re.IGNORECASE)  # in the name of what a query says
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*_API_KEY|API_KEY")


def check_api(key: str, teacher: ApiConfig) -> list[str]:
    """key: the branch, `teacher`; its `name` says whether it is such a teacher."""
    name, plain = getattr(teacher, "name", API), ApiConfig()
    if name != API:
        own = [entry.name for entry in fields(ApiConfig) if entry.name not in ("model", "verbalizer")]  # which other teachers have too
        given = [word for word in own if getattr(teacher, word) != getattr(plain, word)]
        return [f"{key}.{word} belongs to {key}={API}, and {key}={name}: leave one of them out" for word in given]
    problems = [f"{key}.{word} is not set: pass {key}.{word}={way}" for word, way in NEEDED if not getattr(teacher, word)]
    if teacher.url and (problem := url_problem(teacher.url)):
        problems.append(f"{key}.url{problem}")
    if not VARIABLE.fullmatch(teacher.key_variable):
        # a config from elsewhere must not choose which of the environment's secrets is sent; what stands here may be a key, and is not shown
        problems.append(f"{key}.key_variable: expected the name of a variable that ends in _API_KEY; put the key itself into that variable")
    if teacher.budget is not None and teacher.prices is None:
        problems.append(f"{key}.budget={teacher.budget:g} needs prices: pass {key}.prices=<file of prices of a million tokens>")
    if teacher.ask == "logprobs" and teacher.votes != plain.votes:
        problems.append(f"{key}.votes={teacher.votes} is for {key}.ask=votes, and {key}.ask=logprobs: leave one of them out")
    if teacher.vote_temperature == 0 and teacher.votes > 1 and teacher.ask != "logprobs":
        problems.append(f"{key}.vote_temperature=0 draws the same vote each time: take {key}.votes=1, or a temperature above 0")
    return problems + check_words(key, teacher)


NEEDED = (("url", "<base of an API, as http://localhost:8000/v1>"), ("model", "<its name there>"))


def check_words(key: str, teacher: ApiConfig) -> list[str]:
    """That label words are lists of words; what they must be beside the classes, `teachers/api/words.py` knows."""
    return [
        f"{key}.verbalizer.{name}={words}: expected words, as in {key}.verbalizer.{name}=[good,great]"
        for name, words in teacher.verbalizer.items()
        if not (isinstance(words, list) and words and all(isinstance(word, str) and word.strip() for word in words))
    ]


def url_problem(url: str) -> str | None:
    """What is wrong with a url, as it goes behind the name of its key: without the value where that may hold a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is none raises
    except ValueError:
        return ": no url; expected the base of an API, as in http://localhost:8000/v1"
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        return " holds a user or password before the @; leave it out, and put the key into the variable that key_variable names"
    if any(SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)) or parts.fragment:
        return " holds what may be a key behind the ? or #; leave it out, and put the key into the variable that key_variable names"
    if parts.scheme not in ("http", "https") or not host:
        return f"={url}: expected the base of an API, as in http://localhost:8000/v1"
    if re.search(r"[\s\x00-\x1f\x7f\\]", url):
        return ": holds a space or a control character; leave it out"
    return None


def is_local(parts: SplitResult) -> bool:
    """Whether what is sent there stays on this machine."""
    host = (parts.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
