"""The classifier that a language model and words for classes make: the config's words become tokens, and what is wrong with them is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from distillctl.config import CAUSAL, ModelConfig
from distillctl.config.prompts import words_of
from distillctl.data.forms import one_form
from distillctl.data.text.reader import TextReader
from distillctl.errors import CheckpointError, ConfigError, did_you_mean
from distillctl.models.net import Net
from distillctl.models.text import nets, transformer
from distillctl.models.text.causal import ByWords, Tokens

CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021
CLOSE = 1e-3  # what rounding may change of a logit, relative to the largest


def build_causal(config: ModelConfig, classes: tuple[str, ...], reader: TextReader, key: str) -> Net:
    """Raises ConfigError and CheckpointError that begin with `key`."""
    nets.check_for_texts(config, key)
    assert config.model is not None
    if config.args:
        raise ConfigError(f"{key}.args: the net of {key}.model is as it is; leave them out")
    words = verbalised(config, classes, reader, key)
    language, settings = language_model(config.model, key)
    nets.check_room(transformer.described(language), reader, key, max(len(word) for own in words for word in own) - 1)
    check_causal(language, f"{key}.model={config.model}")
    free = [content_free(reader, text, key) for text in CONTENT_FREE] if config.calibrate else []
    return Net(ByWords(language, words, free), CAUSAL, str(settings[transformer.TYPE]), "large", (), settings, None, None, None, reader)


def verbalised(config: ModelConfig, classes: Sequence[str], reader: TextReader, key: str) -> list[list[Tokens]]:
    """The tokens of the words of each class, by the order of the classes."""
    given = by_class(config, classes, key)
    found: dict[Tokens, tuple[str, str]] = {}
    result: list[list[Tokens]] = []
    for name in classes:
        own = []
        for word in given[one_form(name)]:
            where = f"{key}.verbalizer.{name}"
            tokens = reader.tokens_of(word)
            if not tokens:
                raise ConfigError(f"{where}={word!r}: it has no tokens of {key}.model; take another word")
            if reader.unknown in tokens:
                raise ConfigError(f"{where}={word!r}: the tokenizer of {key}.model does not know it; take another word")
            if tokens in found:
                other, same = found[tokens]
                raise ConfigError(f"{where}={word!r}: it has the tokens of {same!r}, which stands for {other}; take another word")
            found[tokens] = name, word
            own.append(tokens)
        result.append(own)
    return result


def by_class(config: ModelConfig, classes: Sequence[str], key: str) -> dict[str, list[str]]:
    given = {one_form(str(name)): words_of(words) or [] for name, words in config.verbalizer.items()}
    known = {one_form(name): name for name in classes}
    for name in given:
        if name not in known:
            raise ConfigError(f"{key}.verbalizer.{name}: the data set has no class {name}; {did_you_mean(name, list(known.values()))}")
    for form, name in known.items():
        if form not in given:
            raise ConfigError(f"{key}.verbalizer: no word stands for {name}; set {key}.verbalizer.{name}=[' word']")
    return given


def language_model(place: str, key: str) -> tuple[nn.Module, dict[str, Any]]:
    """A language model of a folder or of the hub with all its weights, in float32, and what it is built from."""
    where = f"{key}.model={place}"
    module, told = transformer.fetched("AutoModelForCausalLM", place, key, f"{where}: no causal language model that can be used")
    missing = sorted({*told["missing_keys"], *(entry[0] for entry in told.get("mismatched_keys", ()))})
    if missing:
        raise CheckpointError(
            f"{where}: it has no weights for {', '.join(missing[:4])}, so it is no causal language model; a classifier is {key}=transformer {key}.model={place}"
        )
    if module.get_output_embeddings() is None:
        raise CheckpointError(f"{where}: it has no output layer over its vocabulary; take another model")
    return module.eval(), transformer.settings_of(module)


def check_causal(language: nn.Module, where: str) -> None:
    """Whether what comes later changes nothing before it, as in decoders alone; seen on two texts that end otherwise. Raises CheckpointError."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % language.config.vocab_size  # type: ignore[union-attr, operator]
    with torch.no_grad():
        one, other = language(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1]
    if not (one - other).abs().max() <= CLOSE * one.abs().max():
        raise CheckpointError(f"{where}: it looks at what comes after a word, so it is no causal language model; take a decoder")


def content_free(reader: TextReader, text: str, key: str) -> Tokens:
    """The tokens of the template whose columns all hold a text that says nothing."""
    assert reader.template is not None
    values: Mapping[str, str] = {**dict.fromkeys(reader.template.columns, text), **reader.template.constants}
    [(ids, _, _)] = reader.encoded([values])
    if not ids:
        raise ConfigError(f"{key}.calibrate=true: the template alone has no tokens; put a word into {key}.template")
    return tuple(ids)


def remark(config: ModelConfig, net: Net, classes: Sequence[str], key: str) -> str:
    """By which words a teacher answers, and how many tokens the long ones have: with these each text is another pass."""
    assert isinstance(net.module, ByWords)
    given, parts = by_class(config, classes, key), []
    words = iter(net.module.plain_words)
    for name in classes:
        said = [f"{word!r}{f' ({length} tokens)' if (length := len(next(words))) > 1 else ''}" for word in given[one_form(name)]]
        parts.append(f"{name} by {', '.join(said)}")
    passes = len(net.module.routes)
    return f"{key}: answers {'; '.join(parts)}" + (f"; {passes} passes a text" if passes > 1 else "")
