"""Which columns of a table are texts, second texts and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillctl.config import TextSetConfig
from distillctl.errors import DataError, did_you_mean

TEXT = ("text", "sentence", "sentence1", "premise", "question", "question1", "content", "review", "document", "tweet", "title", "body")
PAIR = ("pair", "text_pair", "text2", "sentence2", "hypothesis", "question2", "passage")
LABEL = ("label", "labels", "class", "category", "target", "sentiment", "y", "gold", "gold_label", "stars", "rating", "intent", "emotion")
KNOWN = frozenset((*TEXT, *PAIR, *LABEL, "id", "idx", "guid"))


@dataclass(frozen=True)
class Columns:
    """Names; label None where no column has labels, pair None where a sample is one text."""

    text: str
    pair: str | None
    label: str | None


def known_names(config: TextSetConfig) -> tuple[str, ...]:
    """What a header is known by: the usual names, and those that the config gives."""
    given = (config.text, config.pair, config.label, config.groups if config.groups != "contained" else None)
    return (*KNOWN, *(name.casefold() for name in given if name is not None and not name.isdigit()))


def columns_of(names: Sequence[str], config: TextSetConfig, where: str) -> Columns:
    """As the config says, else by the usual names. Raises DataError that lists what there is."""
    text = asked(names, config.text, "text", where) or usual(names, TEXT)
    if text is None:
        raise DataError(f"{where}: none of its columns ({', '.join(names)}) is known to hold texts; set dataset.text=<column>")
    pair = usual(names, PAIR) if config.pair is None else asked(names, config.pair, "pair", where) if config.pair else None
    label = asked(names, config.label, "label", where) or usual([name for name in names if name not in (text, pair)], LABEL)
    if len({text, pair, label} - {None}) < sum(each is not None for each in (text, pair, label)):
        raise DataError(f"{where}: dataset.text={text}, dataset.pair={pair} and dataset.label={label} have to be different columns")
    return Columns(text, pair, label)


def asked(names: Sequence[str], name: str | None, key: str, where: str) -> str | None:
    if name is None or name in names:
        return name
    alike = [each for each in names if each.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    raise DataError(f"dataset.{key}={name}: {where} has no such column; {did_you_mean(name, names)}")


def usual(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted names that is there, in any case."""
    by_form = {name.casefold(): name for name in names}
    return next((by_form[name] for name in wanted if name in by_form), None)
