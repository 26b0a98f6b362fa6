"""The commit of the folder that a command was started in. The folder may be a stranger's, so nothing of its git config acts."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from distillctl.files import read_text

TIMEOUT_S = 5


def commit(folder: Path) -> str | None:
    """The first 12 digits, `+` where tracked files have changes; None outside a repository, or where git cannot be asked.

    git would run programs that the repository's config names (a monitor of files, filters, hooks). So the commit is read here, and git
    compares the files for a repository of our own, with an empty config, that borrows the other's index and objects.
    """
    found = next((place for place in (folder, *folder.parents) if os.path.lexists(place / ".git")), None)
    if found is None:
        return None
    try:
        private = git_folder(found)
        common = private / (text(private / "commondir") or ".")
        digest = head(private, common)
        return None if digest is None else digest[:12] + ("+" if changed(found, private, common, digest) else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def git_folder(root: Path) -> Path:
    """`.git`, or what the file of that name points to in a linked working tree."""
    place = root / ".git"
    return place if place.is_dir() else root / text(place).removeprefix("gitdir: ")


def head(private: Path, common: Path) -> str | None:
    """The commit that HEAD stands for, in full."""
    content = text(private / "HEAD")
    name = content.removeprefix("ref: ")
    if name != content:
        if not re.fullmatch(r"refs(/[\w@+-][\w.@+-]*)+", name):
            return None
        packed = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", text(common / "packed-refs"), re.MULTILINE)
        content = text(private / name) or text(common / name) or (packed[1] if packed else "")
    return content if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", content) else None


def text(file: Path) -> str:
    """What a small file says; nothing where there is none, or something else."""
    try:
        return read_text(file).strip()
    except OSError:
        return ""


def changed(root: Path, private: Path, common: Path, digest: str) -> bool:
    """Whether tracked files differ from the commit. Repositories inside are not looked into: theirs are other configs."""
    with tempfile.TemporaryDirectory() as own:
        place = Path(own)
        for name in ("objects", "refs"):
            (place / name).mkdir()
        (place / "HEAD").write_text(f"{digest}\n")
        form = "0" if len(digest) == 40 else "1\n[extensions]\nobjectFormat = sha256"
        (place / "config").write_text(f"[core]\nbare = false\nrepositoryFormatVersion = {form}\n")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
            "GIT_DIR": own,
            "GIT_WORK_TREE": str(root),
            "GIT_INDEX_FILE": str(private.resolve() / "index"),
            "GIT_OBJECT_DIRECTORY": str(common.resolve() / "objects"),
            "GIT_OPTIONAL_LOCKS": "0",
        }
        command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all"]
        found = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=TIMEOUT_S, check=True)
        return bool(found.stdout)
