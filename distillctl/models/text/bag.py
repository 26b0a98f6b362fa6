"""A bag of words: the mean of what tokens mean, and a hidden layer. The floor of text classification, and microseconds a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bag(nn.Module):
    """Iyyer et al. 2015 (deep averaging network), with one hidden layer. Takes {input_ids, attention_mask} int64 [B, T]."""

    def __init__(self, num_classes: int, vocab_size: int, width: int = 128, dropout: float = 0.1):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(ids))[..., None]
        words = self.embedding(ids)
        mean = (words * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.head(self.dropout(torch.relu(self.hidden(mean))))


bag = Bag  # as it is named in a config and in the script that loads it
