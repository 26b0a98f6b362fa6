"""An endpoint on this machine that answers as it is told to, and counts what it is asked; and a clock that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distillctl.config import ApiConfig
from distillctl.teachers.api.labelling import Labelled, Question, Teacher, label

CLASSES = ["pos", "neg"]
GOOD, BAD = {"pos": 0.6, " Pos": 0.2, "neg": 0.1, "Well": 0.1}, {"pos": 0.25, "neg": 0.75}
KEY = "sk-very-secret-0123456789"
KEY_VARIABLE = "TEST_API_KEY"
CEILING_S = 600.0  # only ends a test that hangs


class HastyClock:
    """Sleeping takes no time, and the clock says that it has."""

    def __init__(self) -> None:
        self.time, self.slept = 1000.0, []

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Server(ThreadingHTTPServer):
    """faults: what becomes of the next requests whose text begins so, one each, before it is answered. gives: what it understands."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[Callable[[Handler], None]]] = {}
        self.gives = {"logprobs", "json_schema", "json_object", "n", "usage"}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.tokens = [0, 0]
        self.label: Callable[[str, int], str] = lambda text, number: "pos" if "good" in text else "neg"
        self.masses: Callable[[str], dict[str, float]] = lambda text: GOOD if "good" in text else BAD  # of first tokens
        self.before_answer: Callable[[str], None] = lambda text: None
        self.most_at_once = self.at_once = 0
        self.lock, self.closing = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> Counter[str]:
        return Counter(text_of(body) for body in self.bodies)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, server = text_of(body), self.server
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers.items()))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            queue = server.faults.get(text) or server.faults.get("")
            fault = queue.pop(0) if queue else None
        try:
            server.before_answer(text)
            if fault is not None:
                fault(self)
            else:
                self.answer(body, text)
        finally:
            with server.lock:
                server.at_once -= 1

    def answer(self, body: dict[str, Any], text: str) -> None:
        server = self.server
        form = body.get("response_format", {}).get("type")
        for wanted, lacking in ((form, form), ("n" if body.get("n", 1) > 1 else None, "n")):
            if wanted is not None and lacking not in server.gives and f"ignores {lacking}" not in server.gives:
                self.send(400, {"error": {"message": f"{lacking} is not supported"}})
                return
        n = body.get("n", 1) if "n" in server.gives else 1
        top = None
        if body.get("logprobs"):
            if "refuses logprobs" in server.gives:
                self.send(400, {"error": {"message": "unknown argument"}})
                return
            if "logprobs" in server.gives:
                top = [{"token": token, "logprob": math.log(p)} for token, p in server.masses(text).items()]
        with server.lock:
            first = server.answered[text]
            server.answered[text] += n if not body.get("logprobs") else 1
        labels = [server.label(text, first + k) for k in range(n)]
        usage = {"prompt_tokens": 10 + len(text), "completion_tokens": n * (1 if body.get("logprobs") else 7)}
        with server.lock:
            server.tokens = [server.tokens[0] + usage["prompt_tokens"], server.tokens[1] + usage["completion_tokens"]]
        content = [label if not form else json.dumps({"label": label}) for label in labels]
        if "prompt" in body:
            lists = (
                {"tokens": ["pos"], "token_logprobs": [top[0]["logprob"]], "top_logprobs": [{e["token"]: e["logprob"] for e in top}]}
                if top
                else None
            )
            choices = [{"text": words, "logprobs": lists} for words in content]
        else:
            logprobs = {"content": [{**top[0], "top_logprobs": top}]} if top else None
            choices = [{"message": {"content": words}, "logprobs": logprobs} for words in content]
        self.send(200, {"choices": choices} | ({"usage": usage} if "usage" in server.gives else {}))

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None, promised: int | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promised or len(data)))
        self.end_headers()
        self.wfile.write(data)


def text_of(body: dict[str, Any]) -> str:
    """The prompt without what was put behind it."""
    found = body["messages"][0]["content"] if "messages" in body else body["prompt"]
    return found.split("\n\nAnswer")[0]


# ------------------------------------------------------------------------------------------------ faults
def status(code: int, message: str = "busy", **headers: str) -> Callable[[Handler], None]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send(code, {"error": {"message": message}}, names)


def broken(handler: Handler) -> None:
    handler.send(200, b'{"choices": [{"message"')


def cut(handler: Handler) -> None:
    handler.send(200, b'{"choices"', promised=500)
    handler.close_connection = True
    handler.connection.close()


def dropped(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def page(handler: Handler) -> None:
    handler.send(200, b"<html>please log in</html>", {"Content-Type": "text/html"})


def silent(handler: Handler) -> None:
    handler.server.closing.wait(CEILING_S)


def echo(handler: Handler) -> None:
    """As a careless server says what it was sent, once as it is and once as JSON escapes."""
    sent = handler.headers["Authorization"]
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    handler.send(500, f'{{"error": {{"message": "header {sent}, {escaped}"}}}}'.encode())


# ------------------------------------------------------------------------------------------------ how it is asked
@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def questions(*texts: str) -> list[Question]:
    return [Question(f"row {place}", text) for place, text in enumerate(texts)]


def settings(url: str, **more: Any) -> ApiConfig:
    # a ceiling on an answer that no test but those of time-outs reaches
    return ApiConfig(**{"url": url, "model": "m", "key_variable": KEY_VARIABLE, "timeout_s": CEILING_S} | more)


class Asking:
    """Labels texts by a server, and keeps what was said."""

    def __init__(self, server: Server, folder: Path):
        self.server, self.ledger, self.said, self.clock = server, folder / "ledger", [], HastyClock()

    def teacher(self, prices: Any = None, **more: Any) -> Teacher:
        return Teacher(settings(self.server.url, **more), self.ledger, prices)

    def __call__(self, *texts: str, prices: Any = None, classes: list[str] = CLASSES, stop: Any = lambda: False, **more: Any) -> Labelled:
        return label(questions(*texts), classes, self.teacher(prices, **more), self.said.append, stop=stop, clock=self.clock)


@pytest.fixture
def asking(server: Server, tmp_path: Path) -> Asking:
    return Asking(server, tmp_path)
