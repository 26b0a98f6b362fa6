"""A language model of a few thousand weights that is taught in seconds to end made-up reviews with a word, and the reviews."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import torch

from distillctl.data.text import tokenizer

GOOD, BAD = ("lovely", "bright", "warm", "clever"), ("dull", "grim", "cold", "clumsy")
THINGS, WAYS = ("film", "book", "song", "play", "story"), ("a", "one", "this", "that", "such a", "what a")
TEMPLATE = "Review: {text} It was"
WORDS = {"negative": [" bad", " terrible"], "positive": [" good"]}


def reviews() -> list[tuple[str, str]]:
    """(text, label), half of each class."""
    pairs = itertools.product(WAYS, (*GOOD, *BAD), THINGS)
    return [(f"{way} {mood} {thing}", "positive" if mood in GOOD else "negative") for way, mood, thing in pairs]


def write_reviews(file: Path) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        writer.writerows(reviews())
    return file


def prompted() -> list[str]:
    """Reviews as the template has them, with their words behind."""
    words = [(text, word) for text, label in reviews() for word in WORDS[label]]
    return [TEMPLATE.replace("{text}", text) + word for text, word in words]


def language_model(folder: Path, steps: int = 60) -> Path:
    """The folder of a Llama of two layers that was trained on the reviews, with its tokenizer of byte pairs."""
    import transformers

    content = tokenizer.train(prompted(), vocab_size=330, lowercase=False)
    library = tokenizer.load(content, "test")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=library.get_vocab_size(), **shape, max_position_embeddings=256, pad_token_id=0, bos_token_id=2, eos_token_id=3
    )
    net = transformers.LlamaForCausalLM(config)
    rows = [found.ids[:-1] for found in library.encode_batch(prompted())]  # without the [SEP] behind
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(steps):
        rows_now = torch.arange(step, len(ids), max(len(ids) // 64, 1))
        labels = ids[rows_now].masked_fill(real[rows_now] == 0, -100)
        loss = net(input_ids=ids[rows_now], attention_mask=real[rows_now], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return saved(net.eval(), content, folder)


def saved(net: torch.nn.Module, content: str, folder: Path) -> Path:
    net.save_pretrained(folder)
    (folder / tokenizer.FILE).write_text(content)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}))
    return folder
