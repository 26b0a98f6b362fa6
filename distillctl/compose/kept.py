"""What a run keeps of its config: paths are absolute, so that it can be gone on with from anywhere. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distillctl import requeue
from distillctl.compose.literal import quoted
from distillctl.config.keys import flat, is_path
from distillctl.invocation import Invocation
from distillctl.paths import as_path


def invocation(
    command: str, composed: DictConfig, words: Sequence[str], again: Sequence[str] = (), whole: Path | None = None
) -> Invocation:
    """words: the overrides that `composed` was made of. again: what else a line that goes on has to say. whole: the sweep's folder."""
    leaves = flat(OmegaConf.to_container(composed, resolve=False))
    moved = {key: value for key, value in absolute(leaves, composed).items() if value != leaves[key]}
    kept = composed.copy()
    OmegaConf.set_readonly(kept, False)
    for key, value in moved.items():
        OmegaConf.update(kept, key, value)
    said = with_paths(words, moved)
    files = {"config.yaml": OmegaConf.to_yaml(kept), "overrides.yaml": OmegaConf.to_yaml(said)}
    return Invocation(command, tuple(files.items()), tuple(again), tuple(said), whole, requeue.mine(words))


def absolute(leaves: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    """The values of a config by their full keys, with paths as they are from here."""
    return {key: str(as_path(value).absolute()) if is_relative(value) and is_path(schema, key) else value for key, value in leaves.items()}


def is_relative(value: Any) -> bool:
    """Of an interpolation nobody can tell; of a recorded data set's key that is not set there is nothing to tell."""
    return isinstance(value, str) and value not in ("", "???") and "${" not in value and not os.path.isabs(value)


def with_paths(words: Sequence[str], moved: Mapping[str, str]) -> list[str]:
    """Overrides with absolute paths in the place of those that were typed, or that stand in a file."""
    said, left = [], dict(moved)
    for word in words:
        key = word.partition("=")[0]
        path = left.pop(key.lstrip("+"), None)
        said.append(word if path is None else f"{key}={quoted(path)}")
    return said + [f"++{key}={quoted(path)}" for key, path in left.items()]
