"""Convolutions over words of several widths, and the largest of each over the text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextCnn(nn.Module):
    """Kim 2014. Takes {input_ids, attention_mask} int64 [B, T]; what is filled up takes no part."""

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        width: int = 128,
        channels: int = 100,
        kernels: tuple[int, ...] | list[int] = (3, 4, 5),
        dropout: float = 0.5,
    ):
        super().__init__()
        self.kernels = tuple(kernels)
        self.embedding = nn.Embedding(vocab_size, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, kernel) for kernel in kernels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels * len(kernels), num_classes)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(ids))[:, None]
        words = self.embedding(ids).transpose(1, 2) * mask
        found = []
        for kernel, convolution in zip(self.kernels, self.convolutions, strict=True):
            # windows begin at every word of the text, and what lies behind it is zero, as if nothing were filled up
            seen = torch.relu(convolution(F.pad(words, (0, kernel - 1))))
            found.append((seen * mask).amax(2))  # no value is below zero, so that of a masked place never wins
        return self.head(self.dropout(torch.cat(found, 1)))


textcnn = TextCnn  # as it is named in a config and in the script that loads it
