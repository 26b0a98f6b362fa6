"""The words of a command line: what is short for what, and what was typed. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from distillctl.compose.config_file import is_config_file, words_of
from distillctl.compose.literal import as_typed, quoted


def written(command: str, words: list[str], sweep: bool = False, files: Iterable[str] = ()) -> list[str]:
    """Overrides as Hydra reads them: those that config files stand for, named by a flag or by a word, and after them what was typed."""
    named = [*files, *filter(is_config_file, words)]
    typed = as_typed(command, with_members([word for word in words if not is_config_file(word)]), sweep)
    said = {key_of(word) for word in typed}
    return [*(word for file in named for word in words_of(command, file, typed) if key_of(word) not in said), *typed]


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def with_members(overrides: list[str]) -> list[str]:
    """Members of an ensemble need no plus: `teacher.members.c.name=vgg8`, for short `teacher.members.c=vgg8`, changes one or adds it.

    Nor do the words for classes of a language model: `teacher.verbalizer.spam=[" spam"]`.
    """
    found = []
    for word in overrides:
        if re.match(r"(teacher|student|model)\.verbalizer(\.[^=]+)?=", word):
            found += with_class_numbers(f"++{word}")
            continue
        member = re.fullmatch(r"\+{0,2}teacher\.(members|weights)\.([\w-]+)(\.[^=]+)?=(.*)", word, re.DOTALL)
        if member:
            kind, name, rest, value = member.groups()
            short = kind == "members" and not rest and not value.startswith("{")
            word = f"++teacher.{kind}.{name}{'.name' if short else rest or ''}={value}"
        found.append(word)
    return found


def with_class_numbers(word: str) -> list[str]:
    """A mapping by classes as Hydra can merge it: of numbers, as many data sets have them, a word each, since its keys have to be text."""
    try:
        given = OverridesParser.create().parse_override(word).value()
    except HydraException:  # to say what is wrong is the part of who reads it next
        return [word]
    if not isinstance(given, dict) or all(isinstance(name, str) for name in given):
        return [word]
    lists = {name: [words] if isinstance(words, str) else words for name, words in given.items()}
    return [f"{word.partition('=')[0]}.{name}=[{','.join(quoted(str(each)) for each in own)}]" for name, own in lists.items()]


def typed_words(hydra: Any = None) -> list[str]:
    """What was asked for, as it was typed: a `${...}` in it is not resolved. `hydra`: its own config; None: that of this job, if it is one."""
    if hydra is None and not HydraConfig.initialized():
        return []
    words = OmegaConf.to_container((hydra or HydraConfig.get()).overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def expanded(words: list[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper makes them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()  # it knows what `glob(...)` means
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create(config_loader=loader).parse_overrides(words), None)
    return jobs
