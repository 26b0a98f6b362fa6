"""Fetch a published file and trust it by its checksum only."""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO

TIMEOUT_S = 30
LARGEST = 2**30  # bytes, of one file
log = logging.getLogger(__name__)


def fetch(urls: list[str], path: Path, md5: str) -> None:
    """Write the first of these addresses that answers with the right bytes to `path`, all of it or nothing.

    Raises the OSError, ValueError or HTTPException of the last address.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in urls:
        log.info("downloading %s to %s", url, path)
        try:
            return _fetch(url, path, md5)
        except (OSError, ValueError, HTTPException) as problem:
            if url == urls[-1]:
                raise
            log.info("%s: %s", url, problem)


def _fetch(url: str, path: Path, md5: str) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        digest, received = hashlib.md5(usedforsecurity=False), 0
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            while chunk := answer.read(1 << 20):
                received += len(chunk)
                if received > LARGEST:
                    raise ValueError(f"{url} is larger than {LARGEST} bytes")
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != md5:
            raise ValueError(f"{url} gave {received} bytes that are not the published file")
        os.chmod(part, 0o644)  # mkstemp makes it 0600, and data folders are shared
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def unpack(archive: IO[bytes], folder: Path, members: set[str]) -> None:
    """Write the named regular files of a gzipped tar into one folder, without their own folder names. Others are not looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:
        for member in tar:
            if member.name not in members or not member.isreg() or member.size > LARGEST:
                continue
            source = tar.extractfile(member)
            assert source is not None
            handle, part = tempfile.mkstemp(dir=folder, prefix=".part.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(source.read())
                os.chmod(part, 0o644)
                os.replace(part, folder / Path(member.name).name)
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise
