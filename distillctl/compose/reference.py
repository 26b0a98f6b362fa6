"""What can be set, for people: every key with its default, range and meaning, and every option of a group, as schema and files say. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import MISSING

from distillctl.compose import groups
from distillctl.config import AUTO, DATA_KINDS, SCHEMAS
from distillctl.config.keys import branch_of, entries, flat, meanings

KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
COSTS = re.compile(r"Costs (?:beside the student's step: )?(.*?)(?: of a student's step)?\.$")
READS = re.compile(r"Reads (.*)\.$")

# arguments of the usual components that people set most
ARGUMENTS = {
    "optimizer.lr": "the learning rate; each stage multiplies it by its lr_scale",
    "loss.kd.temperature": "what both answers are softened by",
    "loss.kd.weight": "of the teacher's answers; loss.ce.weight is that of the labels",
}


@dataclass(frozen=True)
class Key:
    """default: as a command line spells it; `-` where a value is needed. takes: its type and range."""

    name: str
    default: str
    takes: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """One file of a group. reads: of a loss, what it looks at. costs: what a step takes longer by."""

    name: str
    summary: str
    reads: str
    costs: str


def keys_of(command: str) -> list[Key]:
    """Every key of a command, in the order of its schema."""
    return list(walk(SCHEMAS[command], defaults_of(command)))


def walk(schema: type, defaults: Mapping[str, Any], prefix: str = "") -> Iterator[Key]:
    hints = get_type_hints(schema)
    for name, entry in entries(schema).items():
        key = prefix + name
        branch = DATA_KINDS["images"] if key == "dataset" else branch_of(schema, name)
        if branch is not None:
            yield from walk(branch, defaults, f"{key}.")
        elif not name.startswith("_"):
            value = defaults.get(key, entry.default_factory() if callable(entry.default_factory) else entry.default)
            yield Key(key, spelled(value), takes(hints[name], entry.metadata), meanings(schema).get(name, ""))
            if entry.default_factory is dict:
                yield from of_component(key, defaults)


def of_component(key: str, defaults: Mapping[str, Any]) -> Iterator[Key]:
    """The arguments that the default option of a component sets: they are those of its class."""
    for name, default in defaults.items():
        home, _, argument = name.rpartition(".")
        target = defaults.get(f"{home}._target_")
        if name.startswith(f"{key}.") and target and not argument.startswith("_"):
            yield Key(name, spelled(default), KINDS.get(type(default), "a value"), ARGUMENTS.get(name, f"an argument of {target}"))


def takes(hint: Any, rules: Mapping[str, Any]) -> str:
    """`a whole number >= 1, or null`."""
    optional = type(None) in get_args(hint)
    kind = next((kind for kind in get_args(hint) if kind is not type(None)), hint) if optional else hint
    if rules.get("auto"):
        return takes(int, {**rules, "auto": False}) + f" | {AUTO}"
    if "choices" in rules:
        said = " | ".join(rules["choices"])
    elif kind in KINDS:
        bounds = [
            f"{sign} {spelled(rules[name])}"
            for name, sign in (("low", ">="), ("above", ">"), ("high", "<="))
            if rules.get(name) is not None
        ]
        said = " ".join([KINDS[kind], " and ".join(bounds)]).strip()
    else:
        said = "a list" if kind is list or str(kind).startswith("list") else "keys of their own"
    return said + (" | null" if optional else "")


def spelled(value: Any) -> str:
    if value is MISSING:
        return "-"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{','.join(map(spelled, value))}]" if isinstance(value, list) else str(value)


@cache
def defaults_of(command: str) -> dict[str, Any]:
    """What the files of a command and of its groups set, by full key; the schema has the rest."""
    found: dict[str, Any] = {}
    for group, option in groups.defaults_of(command).items():
        file = groups.folder_of(group) / f"{option}.yaml"
        found |= said(yaml.safe_load(file.read_text()) or {}, f"{group}.") if file.is_file() else {f"{group}.name": option}
    return found | said(groups.primary_of(command))


def said(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a file sets; its list of defaults is about other files."""
    return flat({name: value for name, value in content.items() if name != "defaults"}, prefix)


def options_of(group: str) -> list[Option]:
    """The files of a group, each with the first sentence of its comment."""
    return [option(group, name) for name in groups.files_of(group)]


def option(group: str, name: str) -> Option:
    text = text_of(group, name)
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    costs = [found[1] for line in comments if (found := COSTS.match(line))]
    told = [found[1] for line in comments if (found := READS.match(line))]
    plain = [line for line in comments if not COSTS.match(line) and not READS.match(line)]
    read = reads(yaml.safe_load(text) or {}, told) if group == "loss" else ""
    return Option(name, plain[0] if plain else "", read, costs[0] if costs else "")


def text_of(group: str, name: str) -> str:
    """The file of an option."""
    return (groups.folder_of(group) / f"{name}.yaml").read_text()


def reads(terms: Mapping[str, Any], told: Sequence[str] = ()) -> str:
    """What a loss looks at: labels, logits, or features by their taps, where no comment of its file tells it."""
    found = ["labels"] if "ce" in terms else []
    for name, term in terms.items():
        taps = term.get("student", []) if isinstance(term, dict) else []
        if name != "ce":
            found += told or ([taps] if isinstance(taps, str) else together(taps) or ["logits"])
    return ", ".join(dict.fromkeys(found)) if terms.keys() != {"ce"} else "labels"


def together(taps: list[str]) -> list[str]:
    """`stage1, stage2, stage3` as `stage1-3`."""
    stages = [tap for tap in taps if tap.startswith("stage")]
    return [f"{stages[0]}-{stages[-1][-1]}", *(tap for tap in taps if tap not in stages)] if len(stages) > 1 else taps


def branches_of(command: str) -> list[str]:
    """What `--help=` can be asked for: the command's groups, and the branches of its keys."""
    inner = (key.name.rpartition(".")[0] for key in keys_of(command))
    return list(dict.fromkeys([*groups.groups_of(command), *(name for name in inner if name)]))
