"""Small nets of the transformers library with random weights, and an adapter that says which of their tokens are real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillctl.models.adapter import Adapter
from distillctl.models.taps import tap
from distillctl.types import Output

VOCABULARY, CLASSES, PAD = 50, 3, 0
ENCODERS = ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "DistilBert")
DECODERS = ("Llama", "Qwen2")


def net(family: str, layers: int = 2, heads: int = 4, width: int = 32, seed: int = 0, **more: Any) -> nn.Module:
    """`net("Bert")`: a classifier of sequences, in eval mode."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "DistilBert": {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": 40},
        "GPT2": {"n_embd": width, "n_layer": layers, "n_head": heads, "bos_token_id": 1, "eos_token_id": 2},
    }.get(family, {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 40})
    if family in DECODERS:
        sizes["num_key_value_heads"] = heads // 2
    torch.manual_seed(seed)
    common = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "pad_token_id": PAD, "initializer_range": 0.5}
    config = getattr(transformers, f"{family}Config")(**common, **sizes, **more)
    return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


class Texts(Adapter):
    """Takes {input_ids, attention_mask}, int64 [B, T], and gives the mask on with its answer."""

    def forward(self, inputs: dict[str, Tensor]) -> Output:  # type: ignore[override]
        answer = self.net(**inputs)
        features = self.taps.collect() if self.taps is not None else {}
        return Output(answer.logits, features, mask=inputs["attention_mask"].bool())


def tapped(net: nn.Module, names: Sequence[str], key: str = "student") -> Texts:
    """A net that catches these taps. Nothing passes through it to find them, so no example is needed."""
    return Texts(net, tap(net, names, no_example, key)).eval()


def no_example(device: torch.device, dtype: torch.dtype) -> Any:
    raise AssertionError("a net of transformers is not traced")


def texts(lengths: Sequence[int], upto: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Drawn tokens, of each text so many, filled up to the longest or further."""
    source = torch.Generator().manual_seed(seed)
    mask = torch.arange(upto or max(lengths))[None] < torch.tensor(lengths)[:, None]
    tokens = torch.full(mask.shape, PAD)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(PAD + 1, VOCABULARY, (length,), generator=source)
    return {"input_ids": tokens, "attention_mask": mask.long()}
