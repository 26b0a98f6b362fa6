"""The files of onnxruntime-web that a page needs, out of a folder that npm made."""

from __future__ import annotations

import re
from pathlib import Path

from distillctl.errors import ConfigError
from distillctl.files import read_bytes

MODULE, GLUE, BINARY = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
OLDEST, NEWEST = (1, 20), (1, 30, 0)  # the oldest that the page was tried with, and the one to install
INSTALL = f"npm install onnxruntime-web@{'.'.join(map(str, NEWEST))}"
KEY = "export.web_runtime"
BANNER = re.compile(rb"ONNX Runtime Web v(\d+)\.(\d+)\.(\d+)")


def runtime_files(folder: Path) -> dict[str, bytes]:
    """The three files by name: of the package, of its `dist`, or of a folder with `node_modules` in it.

    Raises ConfigError where one is missing, too old, or of another version than the others.
    """
    if not folder.is_dir():
        raise ConfigError(f"{KEY}={folder}: no such folder; {INSTALL}, then {KEY}=node_modules/onnxruntime-web")
    places = (folder, folder / "dist", folder / "onnxruntime-web/dist", folder / "node_modules/onnxruntime-web/dist")
    place = next((each for each in places if (each / MODULE).is_file()), None)
    if place is None:
        raise ConfigError(f"{KEY}={folder}: no {MODULE} in it; {INSTALL}, then {KEY}=node_modules/onnxruntime-web")
    found = {}
    for name in (MODULE, GLUE, BINARY):
        try:
            found[name] = read_bytes(place / name)
        except OSError as error:
            raise ConfigError(f"{KEY}={folder}: {name} cannot be read ({error.strerror}); {INSTALL}") from None
    check_version(found, folder)
    return found


def check_version(found: dict[str, bytes], folder: Path) -> None:
    """Whether a page works with them. Raises ConfigError."""
    banner = BANNER.search(found[MODULE][:1000])
    if banner is None:
        raise ConfigError(f"{KEY}={folder}: {MODULE} does not say that it is of onnxruntime-web; {INSTALL}")
    version = tuple(int(part) for part in banner.groups())
    words = ".".join(map(str, version))
    if not OLDEST <= version[:2] < (OLDEST[0] + 1, 0):
        raise ConfigError(
            f"{KEY}={folder}: onnxruntime-web {words}, and the page needs {'.'.join(map(str, OLDEST))} or a later 1.x; {INSTALL}"
        )
    if not found[BINARY].startswith(b"\0asm") or words.encode() not in found[BINARY]:
        raise ConfigError(f"{KEY}={folder}: {BINARY} is not of version {words} as {MODULE} is; {INSTALL}")
