"""Two LSTMs, one in each direction: the student of Tang et al. 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BiLstm(nn.Module):
    """Tang et al. 2019 (1903.12136), section 2.1: the last states of both directions, a hidden layer, a softmax.

    Two one-way LSTMs, the second over the text turned round: equal to a packed bidirectional one, whatever is filled up, and it can be exported.
    Takes {input_ids, attention_mask} int64 [B, T], what is filled up behind the text.
    """

    def __init__(self, num_classes: int, vocab_size: int, width: int = 300, states: int = 150, hidden: int = 200, dropout: float = 0.1):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.onward = nn.LSTM(width, states, batch_first=True)
        self.returning = nn.LSTM(width, states, batch_first=True)
        self.hidden = nn.Linear(2 * states, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = inputs["input_ids"]
        lengths = inputs.get("attention_mask", torch.ones_like(ids)).sum(1, keepdim=True).clamp(min=1)
        words = self.dropout(self.embedding(ids))
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        turned = torch.where(places < lengths, lengths - 1 - places, places)[..., None].expand_as(words)
        states = (self.onward(words)[0], self.returning(words.gather(1, turned))[0])
        last = (lengths - 1)[..., None].expand(-1, 1, states[0].shape[2])
        read = torch.cat([state.gather(1, last)[:, 0] for state in states], 1)
        return self.head(self.dropout(torch.relu(self.hidden(read))))


bilstm = BiLstm  # as it is named in a config and in the script that loads it
