"""Embeddings of which some are virtual tokens that learn, and the plain table that they come to.

N virtual tokens, V entries, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prompted(nn.Module):
    """In the place of an embedding: ids int64 [B, T] -> [B, T, D], of which `first` to `first` + N - 1 are virtual. prompt: [N, D]."""

    def __init__(self, base: nn.Embedding, first: int, prompt: Tensor):
        super().__init__()
        self.base_layer, self.first = base, first
        self.prompt = nn.Parameter(prompt)

    def forward(self, ids: Tensor) -> Tensor:
        place = ids - self.first
        virtual = (place >= 0) & (place < len(self.prompt))
        learned = F.embedding(place.clamp(0, len(self.prompt) - 1), self.prompt)
        plain: Tensor = self.base_layer(ids.masked_fill(virtual, 0))
        return torch.where(virtual[..., None], learned, plain)

    @property
    def size(self) -> int:
        """Entries of the vocabulary with the virtual tokens."""
        return max(self.base_layer.num_embeddings, self.first + len(self.prompt))


def is_prompt(module: nn.Module) -> bool:
    """Whether the parameters that a module itself owns are virtual tokens."""
    return isinstance(module, Prompted)


@torch.no_grad()
def plain_state(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a net under its own names: embeddings and virtual tokens as one table [V + N, D]. Without virtual tokens it stays as it is."""
    found = dict(state)
    for name, part in net.named_modules():
        if isinstance(part, Prompted):
            weight, prompt = found.pop(f"{name}.base_layer.weight"), found.pop(f"{name}.prompt")
            table = torch.cat([weight, weight.new_zeros(part.size - len(weight), weight.shape[1])])
            table[part.first : part.first + len(prompt)] = prompt
            found[f"{name}.weight"] = table
    return found
