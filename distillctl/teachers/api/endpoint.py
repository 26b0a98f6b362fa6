"""Where requests are sent: the base of an API, and whether a key may be sent there."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from distillctl.config.api_rules import DOORS, is_local, url_problem
from distillctl.errors import ConfigError


@dataclass(frozen=True)
class Endpoint:
    """base: without a slash at its end. query: what every address carries, as `api-version=1`. local: on this machine."""

    base: str
    query: str
    local: bool

    @classmethod
    def of(cls, url: str, has_key: bool = False, insecure_http: bool = False) -> Endpoint:
        """Raises ConfigError, whose line never shows a url that holds a secret."""
        problem = url_problem(url)
        if problem is not None:
            raise ConfigError(f"teacher.url{problem}")
        parts = urlsplit(url)
        local = is_local(parts)
        if parts.scheme == "http" and has_key and not local and not insecure_http:
            raise ConfigError(
                f"teacher.url={url}: the key would travel unencrypted to another machine; take https, or unset the key's variable, "
                "or teacher.insecure_http=true in a network that you trust"
            )
        path = parts.path.rstrip("/")
        for door in DOORS:
            path = path.removesuffix(door)
        return cls(f"{parts.scheme}://{parts.netloc.lower()}{path}", parts.query, local)

    def address(self, path: str) -> str:
        """`/chat/completions` below the base."""
        return f"{self.base}{path}" + (f"?{self.query}" if self.query else "")

    @property
    def name(self) -> str:
        """What decides answers of it, and is part of the key that they are kept by."""
        return self.address("")
