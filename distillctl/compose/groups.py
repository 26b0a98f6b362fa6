"""Which config groups and which keys a command has. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from distillctl.compose.places import conf_dir, recipes_dir
from distillctl.compose.sources import EXTRA_NAMES, KIND_GROUP, ROLES
from distillctl.models import catalogue


def group_names(command: str, folders: Iterable[Path] = ()) -> dict[str, list[str]]:
    """The config groups that a command's primary config uses, each with its options; folders: where configs of one's own are."""
    found = {group: options(group, folders) for group in groups_of(command)}
    if "recipe" in found:
        found["recipe"] = [name for name in found["recipe"] if command in commands_of(name, default=command)]
    return found


def groups_of(command: str) -> tuple[str, ...]:
    return tuple(defaults_of(command))


def default_of(command: str, group: str) -> str | None:
    """The option that a command takes where nobody chooses one."""
    return defaults_of(command)[group]


@cache
def primary_of(command: str) -> dict[str, Any]:
    """What a command's own file says."""
    content: dict[str, Any] = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
    return content


@cache
def defaults_of(command: str) -> dict[str, str | None]:
    groups = {group: name for item in primary_of(command)["defaults"] if isinstance(item, dict) for group, name in item.items()}
    return {group: name for group, name in groups.items() if not group.startswith(KIND_GROUP)}  # which the file of a data set chooses


def options(group: str, folders: Iterable[Path] = ()) -> list[str]:
    """What a group can be set to, one's own first; for models the featured names, of the many that work."""
    own = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
    return [*own, *files_of(group), *(catalogue.FEATURED if group in ROLES else ()), *(EXTRA_NAMES if group in ROLES else ())]


@cache
def commands_of(recipe: str, default: str) -> tuple[str, ...]:
    """The commands that a recipe that ships is made for, as its first lines say; of one's own `default` alone."""
    file = recipes_dir() / f"{recipe}.yaml"
    if not file.is_file():
        return (default,)
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    return tuple(dict.fromkeys(re.findall(r"distillctl (\w+)", "\n".join(line for line in head if f"recipe={recipe}" in line)))) or (
        default,
    )


def folder_of(group: str) -> Path:
    return recipes_dir() if group == "recipe" else conf_dir() / group


def files_of(group: str) -> list[str]:
    return sorted(file.stem for file in folder_of(group).glob("*.yaml"))


@cache
def weights_that_ship() -> dict[str, set[float]]:
    """The weights that each term of a loss has in the files that ship: those of the papers."""
    found: dict[str, set[float]] = {}
    for file in (conf_dir() / "loss").glob("*.yaml"):
        for term, node in (yaml.safe_load(file.read_text()) or {}).items():
            if isinstance(node, dict) and isinstance(node.get("weight"), (int, float)):
                found.setdefault(term, set()).add(float(node["weight"]))
    return found


def weighed_otherwise(loss: Mapping[str, Any]) -> list[str]:
    """The terms of a loss whose weight is the user's own."""
    shipped = weights_that_ship()
    return [term for term, node in loss.items() if node.get("weight", 1.0) not in shipped.get(term, ())]


@cache
def known_keys(command: str) -> tuple[str, ...]:
    """Every key and group of a command's default config."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra  # we may be called from within a sweep
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose(command)
    finally:
        GlobalHydra.instance().hydra = before
    return tuple(dict.fromkeys([*groups_of(command), *walk(composed)]))


def walk(node: Any, prefix: str = "") -> list[str]:
    """Full names of all keys of a config, branches included."""
    names = []
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        for name in node:
            names.append(f"{prefix}{name!s}")
            names += walk(node._get_node(name), f"{prefix}{name!s}.")
    return names
