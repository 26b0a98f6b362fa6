"""A config file of one's own as the words of a command line: `distillctl train mine.yaml`. No torch here.

It holds what could be typed, nested or with dots, and so does the config that a run keeps in its folder. Hydra never reads it: whatever
it says passes as overrides, which are plain keys with values and choices of groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from omegaconf._utils import get_yaml_loader

from distillctl.compose import yaml_files
from distillctl.compose.groups import groups_of, options
from distillctl.compose.guard import OPTION
from distillctl.compose.literal import kind_of, quoted, text
from distillctl.compose.own import HYDRA, KEY, parts, typed_instead
from distillctl.compose.sources import ROLES
from distillctl.config import DATA_KINDS, SCHEMAS
from distillctl.config.api_rules import is_local
from distillctl.config.keys import branch_of, entries
from distillctl.errors import ConfigError

SUFFIXES = (".yaml", ".yml")
OF_A_RUN = Path(".hydra") / "config.yaml"
NOT_SET = ("resume", "defaults")  # of a run that was resumed; what is chosen, which has its own line below


def is_config_file(word: str) -> bool:
    """Whether a word of the command line names a config file, or the folder of a run, whose config it stands for."""
    return "=" not in word and (Path(word).suffix in SUFFIXES or (Path(word) / OF_A_RUN).is_file())


def words_of(command: str, given: str, typed: list[str]) -> list[str]:
    """The overrides that a file stands for; those that were typed besides come after them, and win. Raises ConfigError."""
    file = Path(given) / OF_A_RUN if Path(given).is_dir() else Path(given)
    try:
        root = yaml.compose(yaml_files.read(file), Loader=get_yaml_loader())
        content = {} if root is None else mapping(root)
        problem = next((name for name in content if HYDRA in parts(name)[:1]), None)
        if problem is not None:
            raise ValueError(f"{problem}: {typed_instead(plain(content[problem]))}")
        if (asked := content.get("teacher.url")) is not None or (asked := below(content.get("teacher"), "url")) is not None:
            check_home(asked)
        chosen = {word.partition("=")[0].lstrip("+") for word in typed}
        return [*choices(command, content), *(word for name, node in content.items() for word in values(command, name, node, chosen))]
    except FileNotFoundError:
        raise ConfigError(f"{given}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{given}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{given}: {yaml_files.wrong(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{given}: {error}") from None


def below(node: yaml.Node | None, name: str) -> yaml.Node | None:
    """An entry of a mapping; None of what is none."""
    return mapping(node).get(name) if isinstance(node, yaml.MappingNode) else None


def check_home(node: yaml.Node) -> None:
    """An endpoint that a file names is one of this machine: elsewhere a key goes where somebody types. Raises ValueError."""
    if plain(node) is not None and not is_local(urlsplit(str(node.value))):
        raise ValueError(f"teacher.url: no file says where a key is sent; type teacher.url={str(node.value)[:80]} on the command line")


def mapping(node: yaml.Node) -> dict[str, yaml.Node]:
    """The entries of a mapping, whose keys are words."""
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("expected keys with values, as in trainer.batch_size: 64")
    names = [str(key.value) for key, _ in node.value]
    for name in names:
        if not KEY.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no key; a key is made of letters, digits, _ and dots")
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there twice")
    return dict(zip(names, (value for _, value in node.value), strict=True))


def choices(command: str, content: dict[str, yaml.Node]) -> list[str]:
    """Options of groups: by their name, by the name of a branch that is one, or by a list of defaults."""
    found = []
    for item in plain(content["defaults"]) if "defaults" in content else []:
        if item != "_self_":
            ((key, option),) = item.items() if isinstance(item, dict) and len(item) == 1 else ((str(item), None),)
            group = str(key).removeprefix("override ").removeprefix("/")
            if group not in groups_of(command) or option is None:
                raise ValueError(f"defaults: {key}: expected the choice of a group, as in override /student: resnet8")
            found.append(choice(group, option))
    for group in groups_of(command):
        node = content.get(group)
        if isinstance(node, yaml.MappingNode):
            name = mapping(node).get("name")
            if isinstance(name, yaml.ScalarNode) and (name.value in options(group) or (group in ROLES and name.value != "???")):
                found.append(choice(group, name.value))
        elif node is not None and not is_null(node):
            found.append(choice(group, plain(node) if isinstance(node, yaml.SequenceNode) else node.value))
    return found


def choice(group: str, option: Any) -> str:
    several = option if isinstance(option, list) else [option]
    for name in several:
        if not OPTION.fullmatch(str(name)):
            raise ValueError(f"{group}: {str(name)[:80]!r} is no name of an option")
    return f"{group}=[{','.join(map(str, several))}]" if isinstance(option, list) else f"{group}={option}"


def values(command: str, key: str, node: yaml.Node, chosen: set[str]) -> Iterator[str]:
    """The words for a key and all below it. chosen: what was typed; a component that was chosen there is not the file's."""
    group = key in groups_of(command)
    if key in NOT_SET or (group and not isinstance(node, yaml.MappingNode)):
        return
    if group and is_component(command, key) and "_target_" in names_in(node):  # it is whole: nothing of the option that would be there
        if key in chosen:
            return
        yield f"~{key}"
    if is_component(command, key) and isinstance(node, yaml.MappingNode):
        for name, value in leaves(node, key):
            yield f"++{name}={spelled(plain(value))}"
    elif isinstance(node, yaml.MappingNode):
        for name, value in mapping(node).items():
            if not (group and name == "name" and choice_of(key, value)):
                yield from values(command, f"{key}.{name}", value, chosen)
    elif not (isinstance(node, yaml.ScalarNode) and node.value == "???"):
        yield f"{'++' if is_component(command, key) else ''}{key}={spelled_as_typed(command, key, node)}"


def choice_of(group: str, node: yaml.Node) -> bool:
    """Whether the name of a branch was made the choice of its group."""
    return isinstance(node, yaml.ScalarNode) and (group in ROLES or node.value in options(group))


def is_component(command: str, key: str) -> bool:
    """Whether a key is, or lies in, a branch whose keys belong to a component: an optimizer, a loss, the arguments of a net."""
    names = key.split(".")
    schemas = DATA_KINDS.values() if names[0] == "dataset" else [SCHEMAS[command]]
    for schema in schemas:
        for name in names[1:] if names[0] == "dataset" else names:
            entry = entries(schema).get(name) if schema is not None else None
            if entry is None:
                break
            if entry.default_factory is dict:
                return True
            schema = branch_of(schema, name)
    return False


def names_in(node: yaml.Node) -> set[str]:
    """All keys of a mapping, those below them included."""
    if not isinstance(node, yaml.MappingNode):
        return set()
    entries_ = mapping(node)
    return set(entries_).union(*map(names_in, entries_.values()))


def leaves(node: yaml.Node, key: str) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in mapping(node).items():
            yield from leaves(value, f"{key}.{name}")
    else:
        yield key, node


def plain(node: yaml.Node) -> Any:
    """What YAML makes of a node."""
    for inner in [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else []:
        if isinstance(inner, yaml.MappingNode):
            mapping(inner)  # its keys are words
    return get_yaml_loader()("").construct_object(node, deep=True)


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def spelled_as_typed(command: str, key: str, node: yaml.Node) -> str:
    """The value of a key of ours: the text that stands in the file, which its type then reads; so `2024_11_27` stays what it is."""
    if is_null(node):
        return "null"
    if isinstance(node, yaml.SequenceNode):
        return f"[{','.join(spelled_as_typed(command, key, item) for item in node.value)}]"
    if isinstance(node, yaml.MappingNode):
        return spelled(plain(node))
    if kind_of(command, key) is not None:
        return quoted(node.value) if node.value == "null" else text(node.value)
    return node.value if re.fullmatch(r"[\w.+-]+", node.value) else quoted(node.value)


def spelled(value: Any) -> str:
    """What YAML made of a component's argument, as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{spelled(item)}' for key, item in value.items())}}}"
    return quoted(str(value))
