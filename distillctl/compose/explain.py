"""The one line for what went wrong while a config was composed. No torch here."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from distillctl.compose.groups import commands_of, files_of, group_names, groups_of, options
from distillctl.compose.own import folders_in
from distillctl.compose.sources import ROLES, split_path
from distillctl.compose.suggest import one_by_one, unknown_key, wrong_type
from distillctl.errors import ConfigError, MachineError, UserError, did_you_mean, nearest
from distillctl.models import catalogue

COMPOSING = (ConfigCompositionException, OmegaConfBaseException)


def explain(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    """What the first of EXPLAINERS says that knows the error; None where the fault is not the user's."""
    for explainer in EXPLAINERS:
        found = explainer(error, command, overrides)
        if found is not None:
            return found
    return None


def our_own(error: Exception, *_: Any) -> UserError | None:
    """Our own errors, raised inside Hydra or a resolver, know best."""
    for cause in causes(error):
        if isinstance(cause, UserError):
            place = getattr(error, "full_key", None)
            return type(cause)(f"{place}={cause}") if place and isinstance(cause, ConfigError) else cause
    return None


def causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, each once: an error that was raised from what it had caused closes a circle."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def missing_option(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    """An option that its group does not have, or a primary config that does not exist."""
    if not isinstance(error, MissingConfigException):
        return None
    group, name = split_path(str(error.missing_cfg_file or ""))
    if not name:
        return ConfigError(" ".join(str(error).split()))
    if group in ROLES and not nearest(name, files_of(group)):
        try:
            catalogue.resolve(name, key=group)
        except UserError as problem:
            return problem
    known = options(group, folders_in(overrides))
    if not known:
        return ConfigError(unknown_key(group, name, command))
    return ConfigError(f"{group}={name}: no such option; {did_you_mean(name, known)}")


def no_folder(error: Exception, *_: Any) -> UserError | None:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = Path(str(error.filename or "")).name
        return ConfigError(f"{name[:60]}...: {len(name):,} characters are too many for the name of a file or an option")
    if isinstance(error, OSError) and error.filename:
        return MachineError(f"{error.filename}: {error.strerror}; set hydra.run.dir=<a folder that can be written>")
    return None


def not_a_name(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    """A group that is given a number, or a value without any key."""
    if not (isinstance(error, ValueError) and "Config group override" in str(error)):
        return None
    groups = group_names(command)
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~").partition("@")[0]
        if bare in groups and value not in groups[bare]:
            return ConfigError(f"{override}: no such option; {did_you_mean(value, groups[bare])}")
    return ConfigError("a group is given a number; its options are names")


def sweep_of_one_run(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    several = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    if several is None:
        return None
    key, _, value = several[1].partition("=")
    return ConfigError(f"{key}={value}: several values are a sweep, which needs -m; one list is {key}=[{value}]")


def unreadable_word(error: Exception, *_: Any) -> UserError | None:
    if not isinstance(error, OverrideParseException):
        return None
    word = str(error.override)
    key, value = word.partition("=")[::2]
    if value.startswith("{"):
        return ConfigError(f"{word}: cannot be read as a mapping; {one_by_one(key)}")
    return ConfigError(f"{word}: cannot be read as key=value")


def chosen_already(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    """A group that is added, and that the command has."""
    key, _ = mentioned(str(error), overrides)
    for added in (word for word in overrides if word.startswith("+")):
        group, _, name = added.lstrip("+").partition("=")
        if group in groups_of(command) and (group == key or f"Multiple values for {group}." in str(error)):
            return ConfigError(f"{added}: {group} is chosen already; write {group}={name} without the +")
    return None


def value_of_another_type(error: Exception, _: str, overrides: list[str]) -> UserError | None:
    found = led_by(error, ValidationError)
    if isinstance(error, COMPOSING) and found is not None:
        return ConfigError(wrong_type(mentioned(str(error), overrides)[0], overrides, found))
    return None


def leads_nowhere(error: Exception, _: str, overrides: list[str]) -> UserError | None:
    """A `${...}` of what there is not."""
    found = led_by(error, InterpolationResolutionError)
    if not (isinstance(error, COMPOSING) and isinstance(found, InterpolationResolutionError)):
        return None
    message = str(found).splitlines()[0]
    name = re.search(r"'([^']+)'", message)
    if name is None:
        where = next((word for word in overrides if "${" in word), found.full_key or "config")
        return ConfigError(f"{where}: {message}")
    where = next((word for word in overrides if f"${{{name[1]}" in word), f"{found.full_key or 'config'}=${{{name[1]}}}")
    return ConfigError(f"{where}: there is no {name[1]}; write the value itself, or a key that --cfg job prints")


def recipe_of_another(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    """A recipe that ships sets keys which this command has not."""
    names = [name for word in overrides if word.startswith("recipe=") for name in re.findall(r"[^\[\],\s]+", word.partition("=")[2])]
    for name in names if isinstance(error, COMPOSING) else ():
        commands = commands_of(name, default=command)
        if command not in commands:
            return ConfigError(f"recipe={name}: made for distillctl {' and '.join(commands)}, and {command} lacks what it sets")
    return None


def no_such_key(error: Exception, command: str, overrides: list[str]) -> UserError | None:
    key, value = mentioned(str(error), overrides)
    return ConfigError(unknown_key(key, value, command)) if isinstance(error, COMPOSING) and key is not None else None


def as_hydra_says(error: Exception, *_: Any) -> UserError | None:
    return (
        ConfigError(" ".join(str(error).split())) if isinstance(error, (HydraException, OmegaConfBaseException, yaml.YAMLError)) else None
    )


def led_by(error: Exception, kind: type[BaseException]) -> BaseException | None:
    """What an error was raised from, or it itself, where that is of a kind."""
    return next((item for item in (error.__cause__ or error.__context__, error) if isinstance(item, kind)), None)


def mentioned(message: str, overrides: list[str]) -> tuple[str | None, str | None]:
    """The override that Hydra's message is about, as (key, value)."""
    quoted = re.findall(r"'([^']+)'", message) + re.findall(r"\"([^\"]+)\"", message)
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~")
        if any(bare == text.lstrip("+~") or override == text for text in quoted):
            return bare, value if "=" in override else None
    for text in quoted:
        key, equals, value = text.partition("=")
        if re.fullmatch(r"[+~]*[\w./@-]+", key):
            return key.lstrip("+~"), value if equals else None
    return None, None


# from those who know best to what remains
EXPLAINERS: tuple[Callable[[Exception, str, list[str]], UserError | None], ...] = (
    our_own,
    missing_option,
    no_folder,
    not_a_name,
    sweep_of_one_run,
    unreadable_word,
    chosen_already,
    value_of_another_type,
    leads_nowhere,
    recipe_of_another,
    no_such_key,
    as_hydra_says,
)
