"""Metadata at the end of a file whose runtime reads it from its beginning, as a zip archive of one entry: any unzip shows it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from distillctl.errors import CheckpointError
from distillctl.files import TEXT_LIMIT, open_file, parse_json

ENTRY = "distillctl.json"


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(zipfile.ZipInfo(ENTRY), json.dumps(dict(metadata), sort_keys=True))  # with the date of nobody
    return buffer.getvalue()


def metadata_at_end(file: Path) -> dict[str, str]:
    """What was put there; empty of a file without it. Raises CheckpointError where the file cannot be read."""
    try:
        with open_file(file) as source, zipfile.ZipFile(source) as archive:
            entry = archive.getinfo(ENTRY)
            if entry.file_size > TEXT_LIMIT:
                return {}
            found = parse_json(archive.read(entry))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError):
        return {}
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
