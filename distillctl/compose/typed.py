"""A composed config as our dataclasses, or all that is wrong with it. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distillctl import config
from distillctl.compose.recorded import filled, is_recorded
from distillctl.compose.suggest import suggestion, wrong_type
from distillctl.errors import ConfigError

GROWTH_LIMIT = 4096  # how many times a value may stand in another once all are resolved
EXAMPLES = {"checkpoint": "<run folder or file>", "inputs": "[image.png]"}  # of values that have no default


def typed(composed: DictConfig) -> Any:
    """The composed config as our dataclasses. Raises ConfigError with all problems at once, one a line."""
    content = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(content, dict)
    check_growth(content)
    of_record = "dataset." if is_recorded(composed) else None
    unset = sorted(key for key in OmegaConf.missing_keys(composed) if not (of_record and key.startswith(of_record)))
    missing = [f"{key} is not set: pass {key}={EXAMPLES.get(key, '...')}" for key in unset]
    strangers = [  # a `+key=value` passes OmegaConf
        f"+{key}={OmegaConf.select(composed, key)}: unknown key; {suggestion(key, config.key_names(composed))}"
        for key in config.strangers({str(key): value for key, value in content.items()}, composed)
    ]
    if missing or strangers:
        raise ConfigError(*missing, *strangers)
    plain = OmegaConf.to_object(filled(composed) if of_record else composed)
    read_counts(plain)
    teachers = [node for node in vars(plain).values() if isinstance(node, config.TeacherConfig)]
    config.spell_out(plain)
    problems = [problem for teacher in teachers for problem in read_members(teacher)] or config.check(plain)
    if problems:
        raise ConfigError(*problems)
    return plain


def check_growth(content: Any) -> None:
    """Values that refer to others twice, which do the same, would fill the memory as they are resolved. Raises ConfigError."""
    growth = math.prod(max(1, text.count("${")) for text in texts(content))
    if growth > GROWTH_LIMIT:
        raise ConfigError("too many values refer to several others by ${...}; write them out")


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from texts(item)


def read_counts(plain: Any) -> None:
    """Counts that may be `auto` are numbers, where a quoted or an interpolated word is one; in place."""
    for _, node in config.nodes(plain):
        for entry in fields(node):
            given = getattr(node, entry.name)
            if entry.metadata.get("auto") and isinstance(given, str) and re.fullmatch(r"[+-]?\d+", given):
                setattr(node, entry.name, int(given))


def read_members(teacher: config.TeacherConfig) -> list[str]:
    """Make each member a MemberConfig, in place; a bare name is short for its `name`. Returns what is wrong, one line each.

    They are open in the schema: Hydra cannot add to a mapping of dataclasses by `+`.
    """
    problems = []
    for name, given in teacher.members.items():
        key, node = f"teacher.members.{name}", {"name": given} if isinstance(given, str) else given
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            problems.append(f"{key}: a member's name is made of letters, digits, _ and -, as in teacher.members.a")
        elif not isinstance(node, dict):
            problems.append(f"{key}={given}: expected a model, as in {key}=resnet20 or {key}.checkpoint=<run folder or file>")
        elif unknown := config.strangers(node, config.MemberConfig):
            known = [f"{key}.{entry}" for entry in config.key_names(config.MemberConfig)]
            problems += [f"{key}.{entry}={node[entry]}: unknown key; {suggestion(f'{key}.{entry}', known)}" for entry in unknown]
        else:
            schema = OmegaConf.create({"teacher": {"members": {name: OmegaConf.structured(config.MemberConfig)}}})
            try:
                merged = OmegaConf.merge(schema, {"teacher": {"members": {name: node}}})
                teacher.members[name] = OmegaConf.to_object(merged.teacher.members[name])
            except OmegaConfBaseException as error:
                problems.append(wrong_type(key, [f"{key}.{entry}={value}" for entry, value in node.items()], error))
    return problems
