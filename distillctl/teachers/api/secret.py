"""The key of an endpoint: read from the environment, sent in one header, and taken out of every text that is shown or kept."""

from __future__ import annotations

import json
import os
import re
from typing import NoReturn
from urllib.parse import quote, quote_plus

from distillctl.errors import ConfigError

HIDDEN = "***"
SHORTEST = 4  # characters; a word as short as `x`, which local servers are given, is no secret, and is in every text
BEARER = re.compile(r"(bearer\s+)[^\s\"',}]+", re.IGNORECASE)


class Secret:
    """Holds a key, or none. It prints as nothing, and cannot be pickled, so that no log and no other process gets it by accident."""

    __slots__ = ("_forms", "_word")

    def __init__(self, word: str | None = None):
        self._word = word
        forms = {word, quote(word, safe=""), quote_plus(word), json.dumps(word)[1:-1]} if word and len(word) >= SHORTEST else set()
        self._forms = sorted(forms, key=len, reverse=True)

    @classmethod
    def of_environment(cls, variable: str) -> Secret:
        """The key in a variable of the environment, if it is set. Raises ConfigError for what no header can hold."""
        word = os.environ.get(variable, "").strip()
        if not all("!" <= letter <= "~" for letter in word):
            raise ConfigError(
                f"teacher.key_variable={variable}: that variable holds spaces, line ends or letters that no key has; set it anew"
            )
        return cls(word or None)

    @property
    def given(self) -> bool:
        return self._word is not None

    @property
    def headers(self) -> dict[str, str]:
        """RFC 6750, section 2.1."""
        return {} if self._word is None else {"Authorization": f"Bearer {self._word}"}

    def scrub(self, text: str) -> str:
        """A text without the key, as it is or as a url or JSON spells it, and without what follows `Bearer`."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return BEARER.sub(rf"\1{HIDDEN}", text)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN if self.given else 'none'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")
