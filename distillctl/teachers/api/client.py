"""One request over HTTP: sent, awaited within its time, and read within its size."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from distillctl.errors import ConfigError, MachineError
from distillctl.teachers.api.clock import Clock
from distillctl.teachers.api.endpoint import Endpoint
from distillctl.teachers.api.failures import Failed, Place, of_status, said_by
from distillctl.teachers.api.retries import retry_after_s
from distillctl.teachers.api.secret import Secret

if TYPE_CHECKING:
    import httpx

LARGEST = 2**24  # bytes of an answer
EXTRA = "teacher=api needs httpx: pip install 'distillctl[api]'"


class Post(Protocol):
    """Sends the JSON of a request, and gives what a success brought.

    Raises Failed where another try may help, Refused for what the endpoint does not take, and UserError for what no try will change.
    """

    async def __call__(self, path: str, content: bytes) -> bytes: ...


def check_extra() -> None:
    """Raises MachineError where the library that speaks HTTP is not installed."""
    try:
        import httpx  # noqa: F401
    except ImportError:
        raise MachineError(EXTRA) from None


class Client:
    """Connections to one endpoint, of this event loop. timeout_s: for a whole answer. connections: the most at once."""

    def __init__(self, endpoint: Endpoint, secret: Secret, place: Place, timeout_s: float, connections: int, clock: Clock):
        check_extra()
        import httpx

        for name in ("httpx", "httpcore"):  # they would write lines for each request, some of which hold what a server echoes
            logging.getLogger(name).setLevel(logging.WARNING)
        self.endpoint, self.secret, self.place, self.timeout_s, self.clock = endpoint, secret, place, timeout_s, clock
        self.connections = httpx.AsyncClient(
            headers={"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity", **secret.headers},
            timeout=httpx.Timeout(timeout_s, pool=None),
            limits=httpx.Limits(max_connections=connections),
            follow_redirects=False,
            trust_env=not endpoint.local,  # a proxy of the environment is not asked for what is on this machine
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connections.aclose()

    async def __call__(self, path: str, content: bytes) -> bytes:
        """As `Post`. What it raises holds no key."""
        import httpx

        try:
            # httpx waits so long for each piece: a server that sends a byte a minute would never end
            reply, body = await asyncio.wait_for(self.exchange(path, content), self.timeout_s)
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            sent = not isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout))
            raise Failed(f"no answer within teacher.timeout_s={self.timeout_s:g}", maybe_paid=sent) from None
        except httpx.ConnectError as error:
            raise self.unreachable(str(error)) from None
        except httpx.InvalidURL:
            raise ConfigError(
                f"teacher.url={self.endpoint.base}: no url; expected the base of an API, as in http://localhost:8000/v1"
            ) from None
        except httpx.TransportError as error:
            words = self.secret.scrub(str(error) or type(error).__name__)
            raise Failed(f"the connection was cut ({words})", maybe_paid=True) from None
        if reply.status_code == 200:
            return body
        wait_s = retry_after_s(reply.headers.get("retry-after"), self.clock.wall())
        location = self.secret.scrub(reply.headers.get("location", "?"))
        raise of_status(reply.status_code, said_by(body, self.secret), wait_s, location, self.place)

    async def exchange(self, path: str, content: bytes) -> tuple[httpx.Response, bytes]:
        pieces, size = [], 0
        async with self.connections.stream("POST", self.endpoint.address(path), content=content) as reply:
            async for piece in reply.aiter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST:
                    raise Failed(f"an answer of more than {LARGEST:,} bytes", maybe_paid=True)
        return reply, b"".join(pieces)

    def unreachable(self, words: str) -> Exception:
        words = self.secret.scrub(words)
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return MachineError(
                f"teacher.url={self.endpoint.base}: its certificate is not one that this machine trusts ({words[:200]}); "
                "name the authority's file by SSL_CERT_FILE"
            )
        return Failed(f"no connection ({words[:200]})")
