"""Virtual tokens in front of every text: new entries of a net's vocabulary, of which the embeddings are learned and nothing else need be.

Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning". What ships is a plain net of a larger vocabulary, and a
tokenizer that puts the new tokens in front of what it reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from distillctl.data.text import tokenizer
from distillctl.data.text.reader import TextReader
from distillctl.draws import integers, seed_of
from distillctl.errors import ConfigError
from distillctl.models.net import Net
from distillctl.models.text import nets, transformer
from distillctl.models.text.virtual import Prompted


def with_prompt(net: Net, count: int, seed: int, where: str) -> Net:
    """A net of the transformers library with `count` virtual tokens, which begin as entries of its vocabulary that are drawn by `seed` (the
    sampled vocabulary of Lester et al. 2021, who draw from its 5,000 likeliest entries; nobody says which these are). Changes the module in place. where: the key that asks for it. Raises ConfigError."""
    reader = net.reader
    if net.source != "transformers" or not isinstance(reader, TextReader):
        raise ConfigError(
            f"{where}: {net.name} is no net of the transformers library, which could read virtual tokens; use {_other(where)}"
        )
    module: Any = net.module
    base = module.get_input_embeddings()
    if type(base) is not nn.Embedding or base.max_norm is not None:
        raise ConfigError(f"{where}: the embeddings of {net.name} are of a kind of their own; use {_other(where)}")
    nets.check_room(transformer.described(module), reader, "student", count)
    content, first = tokenizer.with_prompt(reader.tokenizer, count, where)
    reader = replace(reader, tokenizer=content, max_tokens=reader.max_tokens + count)
    drawn = integers(min(base.num_embeddings, first), seed_of(seed, "initialisation", "prompt"), "prompt", torch.arange(count))
    rows = base.weight.detach()[drawn.to(base.weight.device)].clone()
    part = Prompted(base, first, rows)
    name = next(name for name, each in module.named_modules() if each is base)
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, part)
    module.config.vocab_size = part.size
    return replace(net, args={**net.args, "vocab_size": part.size}, reader=reader)


def _other(where: str) -> str:
    return f"{where.partition('=')[0]}=head"
