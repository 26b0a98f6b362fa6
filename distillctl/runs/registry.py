"""The trained teachers that a cache folder names, which anybody may have written: an entry is looked up, believed or not, and removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.entries import Malformed, open_mapping, text
from distillctl.files import Foreign, check_owner, parse_json, read_trusted

FOLDER = "teachers"
LOG = "metrics.jsonl"


@dataclass(frozen=True)
class Trained:
    """A teacher that was found: its log, weights and record as they were checked, the record of its stage, and the folder of its run."""

    files: Mapping[str, bytes]
    stage: Mapping[str, Any]
    run: str


def look_up(entry: Path, role: str, everybody: bool = False, warn: Callable[[str], None] = lambda problem: None) -> Trained | None:
    """What an entry names, if every file is there, its checksum is right, and whoever wrote it is believed."""
    try:
        content = parse_json(read_trusted(entry, everybody))
        folder, sums = Path(text(content, "file")).parent, open_mapping(content, "files")
        files = {name: read_trusted(folder / name, everybody) for name in files_of(role) if name in sums or name != LOG}
        whole = all(hashlib.sha256(data).hexdigest() == sums[name] for name, data in files.items())
        return Trained(files, dict(open_mapping(content, "stage")), text(content, "run")) if whole else None
    except Foreign as error:
        warn(f"{entry}: {error.strerror}; it is not used, teacher.cache.trust_group=true would")
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Malformed):
        return None


def is_free(entry: Path) -> bool:
    """Whether an entry may be written: of another user's none is taken away."""
    try:
        check_owner(os.stat(entry, follow_symlinks=False), everybody=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def files_of(role: str) -> tuple[str, ...]:
    """What a finished stage leaves to others, its record last. Its script is never taken, but who changed that may have changed more."""
    return LOG, f"{role}.safetensors", f"load_{role}.py", f"{role}.json"


def entries(root: Path) -> list[Path]:
    """The registered teachers of a cache folder."""
    return sorted((root / FOLDER).glob("*.json"))


def prune(root: Path, everything: bool) -> int:
    """Remove entries whose files are gone or changed, or all of them, and how many that were. The teachers themselves stay in their runs."""
    count = 0
    for entry in entries(root):
        if everything or look_up(entry, "teacher", everybody=True) is None:
            with contextlib.suppress(PermissionError):  # another user's
                entry.unlink(missing_ok=True)
                count += 1
    return count
