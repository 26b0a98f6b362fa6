"""Sentences about a key that does not exist or a value that its field cannot take. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.compose.groups import known_keys
from distillctl.errors import nearest, one_slip


def wrong_type(key: str | None, overrides: list[str], error: BaseException) -> str:
    """A value that its field cannot take."""
    key = getattr(error, "full_key", None) or key
    values = [value for name, _, value in (override.partition("=") for override in overrides) if name.lstrip("+") == key]
    shown = f"{key}={values[-1]}" if values else key
    message = str(error).splitlines()[0]
    if "is not Optional" in message:
        return f"{shown}: a value is needed"
    if "is not a ListConfig" in message:
        return f"{shown}: expected a list, as in {key}=[{values[-1] if values else '...'}]"
    if "to Dict[" in message or "is not a DictConfig" in message:
        return f"{shown}: expected a mapping; {one_by_one(key)}"
    if "Union[int, str]" in message:
        return f"{shown}: expected a whole number, or auto"
    for kind, expected in (("Integer", "a whole number"), ("Float", "a number"), ("bool", "true or false")):
        if kind.lower() in message.lower():
            return f"{shown}: expected {expected}"
    return f"{shown}: {message}"


def one_by_one(key: str | None) -> str:
    """How a mapping is filled from the command line."""
    return f"its entries are given one by one, as in +{(key or 'key').lstrip('+~')}.name=value"


def unknown_key(key: str, value: str | None, command: str) -> str:
    """An unknown key or group, with the nearest that exist."""
    shown = key if value is None else f"{key}={value}"
    parent = key.rpartition(".")[0]
    if key.endswith(".args") and key in known_keys(command):
        return f"{shown}: {one_by_one(key)}"
    if parent.endswith(".args"):
        return f"{shown}: an argument of the model is added with a plus: +{shown}"
    if parent.startswith("hydra"):
        return f"{shown}: Hydra has no such key; distillctl {command} --cfg hydra prints those it has"
    kind = "group or key" if "." not in key and "/" not in key else "key"
    return f"{shown}: unknown {kind}; {suggestion(key, known_keys(command))}"


def suggestion(key: str, known: Sequence[str]) -> str:
    """What may have been meant: a neighbour where the branch is right, the same name in another branch where none is given, else the nearest of all, else what there is."""
    parent, dot, last = key.rpartition(".")
    siblings = {name.removeprefix(parent + dot): name for name in known if name.rpartition(".")[0] == parent}
    same_name = [name for name in known if "." in name and name.rpartition(".")[2] == last]
    meant = (
        [name for name in known if one_slip(key, name)]
        or (same_name if not dot else [])
        or [siblings[name] for name in nearest(last, siblings)]
        or nearest(key, same_name)
        or same_name
        or nearest(key, known)
    )
    if meant:
        return f"did you mean {', '.join(meant[:3])}?"
    return f"known: {', '.join(sorted(siblings.values()) or sorted(name for name in known if '.' not in name))}"
