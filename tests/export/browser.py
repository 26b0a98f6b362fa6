"""Chromium as a test drives it: chromedriver's own protocol by the standard library, and a server of files on localhost."""

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """What `python -m http.server` answers, and nothing on the terminal."""

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as `python -m http.server` serves it."""

    def handler(*arguments: Any) -> Quiet:
        return Quiet(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()


class Browser:
    """A session of chromedriver."""

    def __init__(self, address: str, profile: Path):
        self.address = address
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.post("/session", capabilities={"alwaysMatch": wanted})["sessionId"]
        self.address = f"{address}/session/{session}"
        self.post("/timeouts", script=600_000)

    def post(self, path: str, **content: Any) -> Any:
        request = urllib.request.Request(self.address + path, json.dumps(content).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url: str) -> None:
        self.post("/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of an async function of these arguments, `given`, returns in the page."""
        body = f"const [given, done] = [[...arguments].slice(0, -1), arguments[arguments.length - 1]]; (async () => {{ {script} }})()"
        found = self.post(
            "/execute/async", script=f"{body}.then((value) => done({{ value }}), (e) => done({{ error: String(e) }}))", args=list(arguments)
        )
        assert "error" not in found, found["error"]
        return found.get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true in the page."""
        self.run(f"while (!({condition})) await new Promise((next) => setTimeout(next, 5));")

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def complaints(self) -> list[str]:
        """What stands in the console as an error or a warning."""
        return [entry["message"] for entry in self.post("/se/log", type="browser") if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, file: Path, width: int, height: int, scheme: str) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=width < 600)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.run("await new Promise((next) => setTimeout(next, 400));")
        data = self.cdp("Page.captureScreenshot", captureBeyondViewport=False)["data"]
        file.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in `folder`."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = [DRIVER, "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as driver:
        session = None
        try:
            assert driver.stdout is not None
            port = next(found[1] for line in driver.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
            session = Browser(f"http://127.0.0.1:{port}", folder / "profile")
            yield session
        finally:
            if session is not None:
                with contextlib.suppress(Exception):
                    urllib.request.urlopen(urllib.request.Request(session.address, method="DELETE"), timeout=60)
            driver.terminate()
