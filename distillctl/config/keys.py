"""The keys of a schema: their full names, those it does not have, and what each decides. No torch here.

A schema is given as its dataclass, as an object of it, or as what Hydra composed by it. The last two know of which kind a branch
is that a group has chosen; of a dataclass alone it is the kind that the field begins with.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distillctl.config.fields import DECISIONS

OPEN = (dict, list)  # branches whose keys belong to a component
LIGHT = ("rounding", "cost", "words")  # where a key says one of these itself, its branches have no say
STRONG = ("answers", "weights")


def entries(schema: Any) -> dict[str, Field[Any]]:
    """The fields of a schema, by name."""
    kind = OmegaConf.get_type(schema) if isinstance(schema, DictConfig) else schema
    return {entry.name: entry for entry in fields(kind)} if is_dataclass(kind) else {}


@cache
def meanings(schema: type) -> dict[str, str]:
    """What the source says below each field of a schema, those that it inherits too: a string of its own, of which Python keeps nothing."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        if is_dataclass(kind):
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(node, ast.ClassDef)
            for entry, below in pairwise(node.body):
                if isinstance(entry, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    found[ast.unparse(entry.target)] = str(below.value.value)
    return found


def branch_of(schema: Any, name: str) -> Any:
    """The schema of a field, in the form that `schema` has; None for a scalar and for a component."""
    if isinstance(schema, DictConfig):
        node = schema._get_node(name)
        return node if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)) else None
    found = entries(schema)[name].default_factory if isinstance(schema, type) else getattr(schema, name)
    return found if is_dataclass(found) else None


def key_names(schema: Any, prefix: str = "") -> list[str]:
    """Full names of all keys of a schema, branches included."""
    found = []
    for name in entries(schema):
        found.append(prefix + name)
        branch = branch_of(schema, name)
        if branch is not None:
            found += key_names(branch, f"{prefix}{name}.")
    return found


def strangers(node: Mapping[str, Any], schema: Any, prefix: str = "") -> list[str]:
    """Keys of a config that its schema does not have; a component's own keys are its own business."""
    known = entries(schema)
    found = [f"{prefix}{key}" for key in node if key not in known]
    for key, value in node.items():
        branch = branch_of(schema, key) if key in known else None
        if branch is not None and isinstance(value, Mapping):
            found += strangers(value, branch, f"{prefix}{key}.")
    return found


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Every scalar of a config as (full key, value, metadata of its field)."""
    for entry in fields(config):
        value, key = getattr(config, entry.name), prefix + entry.name
        if is_dataclass(value):
            yield from leaves(value, key + ".")
        elif isinstance(value, dict):
            yield from open_leaves(value, key + ".")
        else:
            yield key, value, entry.metadata


def open_leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """The same for a node whose keys belong to a component (an optimizer, a loss)."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from open_leaves(value, f"{prefix}{name}.")
        elif is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, {}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their full keys; an empty mapping is one."""
    if isinstance(node, Mapping) and node:
        return {key: value for name, item in node.items() for key, value in flat(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): node}


def path(schema: Any, key: str) -> list[str] | None:
    """What is said at each branch that leads to a key, and at the key itself; None for a key that the schema does not have."""
    said: list[str] = []
    for name in key.split("."):
        entry = entries(schema).get(name) if schema is not None else None
        if entry is None:
            return None
        said.append(entry.metadata["decides"])
        if entry.default_factory in OPEN:
            return said
        schema = branch_of(schema, name)
    return said


def decides(schema: Any, key: str) -> str:
    """What a key decides, one of DECISIONS: its own word, or the stronger of its branches'. What is not known may decide anything.

    A key below a component has the component's word.
    """
    said = path(schema, key)
    if said is None:
        return DECISIONS[0]
    if said[-1] in LIGHT:
        return said[-1]
    return min((word for word in said if word in STRONG), key=DECISIONS.index)


def holder_of(schema: Any, key: str) -> Any:
    """The schema that the last name of a key stands in; None where a branch on the way there has none."""
    for branch in key.split(".")[:-1]:
        schema = branch_of(schema, branch) if branch in entries(schema) else None
    return schema


def default(schema: Any, key: str) -> Any:
    """What a key of a schema is where nothing is said of it; None for one that it does not have."""
    entry = entries(holder_of(schema, key)).get(key.rpartition(".")[2])
    if entry is None or entry.default is MISSING:
        return next((kind() for kind in OPEN if entry is not None and entry.default_factory is kind), None)
    return entry.default


def keys_that_decide(schema: Any, *words: str) -> tuple[str, ...]:
    """The keys of values and components of a schema that decide one of these."""
    return tuple(key for key in key_names(schema) if not holds_keys(schema, key) and decides(schema, key) in words)


def holds_keys(schema: Any, key: str) -> bool:
    """Whether a key that the schema has is a branch with a schema of its own."""
    for name in key.split("."):
        schema = branch_of(schema, name)
    return schema is not None


def said_about(schema: Any, key: str) -> set[str]:
    """Whatever is said of a key, of the branches that hold it, and of the keys that it holds."""
    said = path(schema, key)
    if said is None:
        return {DECISIONS[0]}
    return {*said, *(path(schema, name)[-1] for name in key_names(schema) if name.startswith(f"{key}."))}  # type: ignore[index]


def is_path(schema: Any, key: str) -> bool:
    """Whether a key's value is a path on this machine; what an open branch holds is named like what has a schema."""
    holder, name = holder_of(schema, key), key.rpartition(".")[2]
    if holder is None:
        return key.startswith("teacher.") and name == "checkpoint"  # of a member
    entry = entries(holder).get(name)
    return entry is not None and bool(entry.metadata.get("path"))


def values_that_decide(config: Any, *words: str) -> dict[str, Any]:
    """What a config sets of the keys that decide one of these, by their full names."""
    found = {}
    for key in keys_that_decide(config, *words):
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        found[key] = value
    return found
