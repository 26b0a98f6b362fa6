"""From a `_target_` in a config to an object: the only place that does so, behind an allow-list."""

from __future__ import annotations

import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from distillctl.errors import ConfigError, did_you_mean
from distillctl.trust import let_in, trusted, within

T = TypeVar("T")


def build(node: Mapping[str, Any], kind: type[T], key: str, /, *arguments: Any, **extra: Any) -> T:
    """Make the object that `node` describes: `_target_` names its class, the other keys are its arguments.

    `kind` is the class that it must be a subclass of, `key` the node's place in the config, for messages;
    `arguments` and `extra` are passed on as they are. Raises ConfigError.
    """
    found = find_class(node, kind, key)
    given = {name: plain(value) for name, value in node.items() if name != "_target_"}
    check_arguments(found, given, key, taken=set(extra), positional=len(arguments))
    try:
        return found(*arguments, **given, **extra)
    except ValueError as error:
        raise ConfigError(refused(key, given, str(error))) from None
    except TypeError as error:
        raise ConfigError(f"{key}: {error}") from None


def refused(key: str, given: Mapping[str, Any], message: str) -> str:
    """A constructor's complaint, with the argument that it is about where that can be told."""
    if message.split("=")[0] in given:  # ours begin with it
        return f"{key}.{message}"
    about = [
        name
        for name, value in given.items()
        if any(str(item) in message.split() for item in (value if isinstance(value, list) else [value]))
    ]
    return f"{key}.{about[0]}={given[about[0]]}: {message}" if len(about) == 1 else f"{key}: {message}"


def find_class(node: Mapping[str, Any], kind: type[T], key: str) -> type[T]:
    """The class named by `_target_`, judged by where it really lives and not by the name it was reached by."""
    path = node.get("_target_")
    if path is None:
        raise ConfigError(f"{key}._target_ is not set: choose an option of the group {key.partition('.')[0]}, or name a class")
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")) or "." not in path:
        raise ConfigError(f"{key}._target_={path}: expected package.module.Class")
    if not within(path, trusted()):  # before any import: importing runs code
        raise ConfigError(
            f"{key}._target_={path}: not in a trusted package ({', '.join(trusted())}); "
            f"for a class of your own add --trust {path.split('.')[0]} to the command"
        )
    module_name, _, name = path.rpartition(".")
    let_in()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}._target_={path}: no such class (there is no module {error.name})") from None
    except Exception as error:  # a package of the user's own that cannot be imported
        raise ConfigError(f"{key}._target_={path}: importing {module_name} failed ({type(error).__name__}: {error})") from None
    if not hasattr(module, name):
        classes = [word for word, item in vars(module).items() if inspect.isclass(item) and issubclass(item, kind) and word[0] != "_"]
        raise ConfigError(
            f"{key}._target_={path}: no such class; {did_you_mean(name, classes) if classes else 'write package.module.Class'}"
        )
    found = getattr(module, name)
    if not (inspect.isclass(found) and issubclass(found, kind)):
        what = f"the class {found.__name__}" if inspect.isclass(found) else f"a {type(found).__name__}"
        raise ConfigError(f"{key}._target_={path}: this is {what}; a subclass of {kind.__name__} is needed here")
    if not within(f"{found.__module__}.", trusted()):
        home = found.__module__
        raise ConfigError(
            f"{key}._target_={path}: lives in {home}, which is not a trusted package ({', '.join(trusted())}); "
            f"for a class of your own add --trust {home.split('.')[0]} to the command"
        )
    return found


@dataclass(frozen=True)
class Arguments:
    """What a constructor takes, in order, with what it hands on to the class above it. open_ended: whatever else it is given too."""

    parameters: dict[str, inspect.Parameter]
    hints: dict[str, Any]
    open_ended: bool


def arguments_of(found: type) -> Arguments:
    """Of a class. Raises ValueError, TypeError and NameError where that cannot be told."""
    parameters, hints = dict(inspect.signature(found).parameters), dict[str, Any]()
    for base in (base for base in found.__mro__ if "__init__" in vars(base)):
        own = dict(inspect.signature(vars(base)["__init__"]).parameters) if base is not found else parameters
        own.pop("self", None)
        parameters = {**own, **{name: entry for name, entry in parameters.items() if name not in own}} if base is not found else own
        hints = {**typing.get_type_hints(vars(base)["__init__"]), **hints}
        hands_on = any(entry.kind is entry.VAR_POSITIONAL for entry in own.values())
        if not hands_on or base is object:
            break
    named = {name: entry for name, entry in parameters.items() if entry.kind not in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD)}
    return Arguments(named, hints, any(entry.kind is entry.VAR_KEYWORD for entry in own.values()))


def check_arguments(found: type, given: Mapping[str, Any], key: str, taken: set[str], positional: int) -> None:
    """Unknown, missing and wrongly typed arguments, before the constructor sees them."""
    try:
        asked = arguments_of(found)
    except (ValueError, TypeError, NameError):
        return
    parameters, hints, open_ended = asked.parameters, asked.hints, asked.open_ended
    allowed = [name for name in list(parameters)[positional:] if name not in taken]
    for name, value in given.items():
        if name not in allowed and not open_ended:
            raise ConfigError(f"{key}.{name}={value}: unknown key; {did_you_mean(name, allowed)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}.{name}={value} must be a finite number")
        if name in hints and not fits(value, hints[name]):
            raise kind_error(f"{key}.{name}", value, words(hints[name]))
    for name in allowed:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"{key}.{name} is not set: pass {key}.{name}=...")


def fits(value: Any, hint: Any) -> bool:
    """Whether a config value can stand where `hint` is asked for; hints beyond config values are not judged."""
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, (list, tuple)) and all(
            fits(item, inner) for item in value for inner in typing.get_args(hint)[:1] if inner is not Ellipsis
        )
    return not isinstance(value, (str, int, float, bool, type(None)))


def words(hint: Any) -> str:
    """A type, as a user would say it."""
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
    if typing.get_origin(hint) in (list, tuple, Sequence):
        return "a list of numbers" if float in typing.get_args(hint) or int in typing.get_args(hint) else "a list"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(choice) for choice in typing.get_args(hint) if choice in names)) or "another kind of value"
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")


def kind_error(key: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{key}={value}: expected {expected}")


def plain(value: Any) -> Any:
    """Lists for tuples and the like, so that constructors get what they would get from Python."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def positive(**named: float) -> float:
    """`positive(temperature=t)` gives t back, or raises ValueError as `build` wants it."""
    ((name, value),) = named.items()
    if not value > 0:
        raise ValueError(f"{name}={value} must be > 0")
    return value


def not_negative(**named: float) -> float:
    """`not_negative(beta=b)` gives b back, or raises ValueError as `build` wants it."""
    ((name, value),) = named.items()
    if not value >= 0:
        raise ValueError(f"{name}={value} must be >= 0")
    return value


def fraction(**named: float) -> float:
    """`fraction(label_smoothing=s)` gives s in [0, 1] back, or raises ValueError as `build` wants it."""
    ((name, value),) = named.items()
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must be in [0, 1]")
    return value
