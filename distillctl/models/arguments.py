"""Find the arguments that a library's builder takes, and refuse those that it does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from distillctl.errors import ConfigError, did_you_mean

# arguments that are not for `args`, and why
RESERVED = {
    **dict.fromkeys(("num_classes", "in_chans"), "the data set decides that"),
    **dict.fromkeys(("weights", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"), "set {key}.pretrained=true instead"),
    **dict.fromkeys(("pretrained_strict", "pretrained_filter_fn", "pretrained_model_args"), "set {key}.pretrained=true instead"),
    **dict.fromkeys(("checkpoint_path", "cache_dir"), "set {key}.checkpoint=<file> instead"),
    **dict.fromkeys(("aux_logits", "init_weights", "features_only", "progress"), "not offered: a plain classifier is built"),
}


def checked(builder: Callable[..., nn.Module], name: str, args: Mapping[str, Any], key: str) -> dict[str, Any]:
    """`args` if the builder takes every one of them; ConfigError names the one that it does not."""
    known = parameters(builder) if args else {}
    offered = [each for each, default in known.items() if default is not None and each not in RESERVED]
    for arg, value in args.items():
        place = f"{key}.args.{arg}={value}"
        if arg in RESERVED:
            raise ConfigError(f"{place}: {RESERVED[arg].format(key=key)}")
        if arg not in known:
            raise ConfigError(f"{place}: {name} has no such argument; {did_you_mean(arg, offered) if offered else 'it takes none'}")
        wanted = known[arg]
        if wanted is not None and value is not None and not _fits_type(value, wanted):
            raise ConfigError(f"{place}: must be {_type_name(wanted)}, like its default {wanted!r}")
        if not _is_plain(value):
            raise ConfigError(f"{place}: must be a number, a word, a flag or a list of these")
    return dict(args)


def parameters(builder: Callable[..., Any]) -> dict[str, Any]:
    """Every argument a builder hands on, with its default. It ends in **kwargs, so what it calls is looked at as well."""
    found: dict[str, Any] = {}
    package = builder.__module__.partition(".")[0]
    queue: list[Any] = [builder]
    visited: set[int] = set()
    while queue:
        callee = queue.pop(0)
        if id(callee) in visited:
            continue
        visited.add(id(callee))
        targets = [vars(each)["__init__"] for each in callee.__mro__ if "__init__" in vars(each)] if isinstance(callee, type) else [callee]
        for target in targets:
            target = inspect.unwrap(target)
            if not inspect.isfunction(target) or not target.__module__.startswith(package):
                continue
            signature = list(inspect.signature(target).parameters.values())
            for each in signature:
                if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD) and each.name != "self":
                    default = None if each.default is each.empty else each.default
                    found.setdefault(each.name, default if isinstance(default, (bool, int, float, str)) else None)
            if isinstance(callee, type) or not _takes_any(target):
                continue
            named = [target.__globals__.get(each) for each in target.__code__.co_names]
            # a builder either passes its arguments on to a private function, or makes the net itself; classes that it
            # merely mentions in the first case are blocks
            passed_on = [each for each in named if inspect.isfunction(each) and each.__name__.startswith("_") and _takes_any(each)]
            queue += passed_on or [each for each in named if isinstance(each, type) and issubclass(each, nn.Module)]
    return found


def _takes_any(function: Callable[..., Any]) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())


def _fits_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float, list, tuple))  # a size may be a pair
    return True


def _type_name(default: Any) -> str:
    return "true or false" if isinstance(default, bool) else "a number"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
