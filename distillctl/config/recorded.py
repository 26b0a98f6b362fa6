"""The schema of a data set that a checkpoint's record names: every key of every kind, and none of them set. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import MISSING

from distillctl.config.data import DATA_KINDS, DatasetConfig
from distillctl.errors import ConfigError

RECORDED = "recorded"


@dataclass
class RecordedSetConfig(DatasetConfig):
    """What all schemas of recorded data sets are. A key that somebody sets can be told from those that nobody did: these are missing."""


def check_named(config: DatasetConfig) -> None:
    """Raises ConfigError where a data set is still to be taken from a record, since none says which, or has a folder that it does not read."""
    if config.name == RECORDED:
        raise ConfigError(
            f"dataset={RECORDED}: no checkpoint with a record says which data set that is; pass dataset=<name>, or dataset.root=<folder of images>"
        )
    if config.name == "digits" and config.root:
        raise ConfigError(
            f"dataset.root={config.root}: the digits lie in no folder; for images of your own pass dataset=image_folder, else leave it out"
        )


def recorded_schema() -> type[RecordedSetConfig]:
    """Of the kinds that there are now; which of them the record is of shows when it is read."""
    kinds: list[Any] = list(DATA_KINDS.values())
    return unset(RecordedSetConfig, *kinds)


@cache
def unset(base: type, *kinds: type) -> Any:
    """A dataclass below `base` with the fields of all kinds, each of them missing. Of equal names a branch has all keys, else the first counts."""
    found: dict[str, Any] = {}
    every = [get_type_hints(kind) for kind in (base, *kinds)]
    for kind, hints in zip((base, *kinds), every, strict=True):
        for entry in fields(kind):
            hint: Any = hints[entry.name]
            same = [own[entry.name] for own in every if is_dataclass(own.get(entry.name))]
            branch: Any = unset(*dict.fromkeys(same)) if is_dataclass(hint) else None
            how: Any = {"default": MISSING} if branch is None else {"default_factory": branch}
            found.setdefault(entry.name, (entry.name, branch or hint, field(**how, metadata=entry.metadata)))
    return make_dataclass(f"Unset{base.__name__}", found.values(), bases=(base,))
