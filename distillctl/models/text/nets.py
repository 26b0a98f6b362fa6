"""The net that a model's configuration names, for texts: ours, a small BERT from scratch, or one of the transformers library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from distillctl.config import ModelConfig
from distillctl.data.text.reader import TextReader
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.models import arguments, catalogue
from distillctl.models.net import Net
from distillctl.models.text import transformer

ENCODER = "transformer"  # the model that is whatever `model` names
COUNT_BEHIND_PAD = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "longformer",
)  # the first position of a text is behind the id that fills up


def build_text_net(config: ModelConfig, classes: tuple[str, ...], reader: TextReader, key: str) -> Net:
    """key: where the configuration stands, for messages. Random weights depend on torch's global generator alone. Raises ConfigError, CheckpointError."""
    source, name = catalogue.resolve(config.name, config.source, key)
    if source not in catalogue.TEXT_SOURCES:
        raise ConfigError(f"{key}={config.name} sees images, and the data set has texts; take one of {', '.join(catalogue.TEXTS)}")
    check_for_texts(config, key)
    if config.model is not None and name != ENCODER:
        raise ConfigError(f"{key}.model={config.model}: {name} is built here; {key}={ENCODER} takes a net of that name")
    if name == ENCODER:
        return pretrained(config, classes, reader, key)
    if source == "transformers":
        settings = {
            transformer.TYPE: "bert",
            **transformer.SIZES[name],
            "vocab_size": reader.vocabulary,
            "max_position_embeddings": max(512, reader.max_tokens),
            "pad_token_id": reader.pad,
            **config.args,
        }
        check_room(settings, reader, key)
        return net_of(transformer_of(settings, len(classes), key), source, name, settings, reader)
    builder = builder_of(name)
    given = arguments.checked(builder, name, config.args, key)
    args = {"vocab_size": reader.vocabulary, **given}
    return net_of(constructed(builder, name, len(classes), args, key), source, name, args, reader)


def check_for_texts(config: ModelConfig, key: str) -> None:
    """Keys that are about images. Raises ConfigError."""
    for name, off in (("image_size", None), ("mean", None), ("std", None), ("pretrained", False)):
        if getattr(config, name) != off:
            way = f"{key}={ENCODER} {key}.model=<name on the hub or folder>" if name == "pretrained" else "leave it out"
            raise ConfigError(f"{key}.{name}={getattr(config, name)} is about images, and the data set has texts; {way}")


def pretrained(config: ModelConfig, classes: tuple[str, ...], reader: TextReader, key: str) -> Net:
    if config.model is None:
        raise ConfigError(f"{key}.model is not set: pass {key}.model=<name on the hub or folder>, or {key}=bert_small from scratch")
    if config.args:
        raise ConfigError(f"{key}.args: the net of {key}.model is as it is; leave them out")
    found = transformer.load(config.model, len(classes), key, config.new_head)
    check_labels(found.labels, classes, config, key)
    check_room(found.settings, reader, key)
    return net_of(found.module, "transformers", str(found.settings[transformer.TYPE]), found.settings, reader)


def check_labels(theirs: tuple[str, ...], ours: tuple[str, ...], config: ModelConfig, key: str) -> None:
    """Names and order of the classes, in any case. Raises CheckpointError."""
    if not theirs or config.new_head or config.ignore_class_names:
        return
    forms = [[name.casefold() for name in names] for names in (theirs, ours)]
    if forms[0] == forms[1]:
        return
    where = f"{key}.model={config.model}"
    if sorted(forms[0]) == sorted(forms[1]):
        raise CheckpointError(
            f"{where}: its classes are the data set's in another order ({', '.join(theirs)}); dataset.class_names puts labels that are numbers into it"
        )
    raise CheckpointError(
        f"{where}: its classes are {', '.join(theirs[:6])}, the data set's {', '.join(ours[:6])}; dataset.class_names names labels that are numbers, "
        f"{key}.new_head=true learns these classes, {key}.ignore_class_names=true takes them for the same"
    )


def check_room(settings: Mapping[str, Any], reader: TextReader, key: str, more: int = 0) -> None:
    """Whether a net of these settings has positions for texts of the longest length, and for `more` tokens behind them, and ids of the tokenizer. Raises ConfigError."""
    positions, ids = settings.get("max_position_embeddings"), settings.get("vocab_size")
    if isinstance(positions, int) and settings.get(transformer.TYPE) in COUNT_BEHIND_PAD:
        positions -= int(settings.get("pad_token_id") or 0) + 1
    if isinstance(positions, int) and 0 < positions < reader.max_tokens + more:
        raise ConfigError(
            f"dataset.max_tokens={reader.max_tokens}: {key} has places for {positions} tokens; lower it, or set {key}.max_tokens={positions - more}"
        )
    if isinstance(ids, int) and ids < reader.vocabulary:
        raise ConfigError(f"{key}.tokenizer: it has {reader.vocabulary:,} ids, and the net knows {ids:,}; take the net's own")


def net_of(module: nn.Module, source: str, name: str, args: Mapping[str, Any], reader: TextReader) -> Net:
    return Net(module, source, name, "large", (), dict(args), None, None, None, reader)


def transformer_of(settings: Mapping[str, Any], num_classes: int, key: str) -> nn.Module:
    try:
        return transformer.build(settings, num_classes)
    except ConfigError as error:
        raise ConfigError(f"{key}.args: {error}") from None


def constructed(builder: Callable[..., nn.Module], name: str, num_classes: int, args: Mapping[str, Any], key: str) -> nn.Module:
    try:
        return builder(num_classes=num_classes, **args)
    except Exception as error:  # torch may object to a value in any way it likes
        shown = ", ".join(f"{arg}={value!r}" for arg, value in args.items())
        raise ConfigError(f"{key}.args: {name} does not take {shown} ({first_line(error)[:200]})") from None


def builder_of(name: str) -> Callable[..., nn.Module]:
    found: Callable[..., nn.Module] = getattr(importlib.import_module(f"distillctl.models.text.{name}"), name)
    return found


def takes_types(module: nn.Module) -> bool:
    """Whether a net tells the texts of a pair apart by their types, as BERT does."""
    return int(getattr(getattr(module, "config", None), "type_vocab_size", 0) or 0) > 1
