"""A classifier that answers by angles: it takes the place of a net's last linear layer, and ships as an edit of the net."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.models.change import Change, linear, replaced


class CosineHead(nn.Module):
    """Features [B, D] -> logits [B, K]: `scale`, which is learnt, times `similarities`.

    weight: float [K, P, D], P directions (proxies) of each class, whose lengths do not matter.
    fixed: how many classes, the first ones, keep their directions: no gradient goes there. A matter of training, no part of what ships.
    """

    def __init__(self, in_features: int, out_features: int, proxies: int = 1):
        super().__init__()
        self.in_features, self.out_features, self.proxies = in_features, out_features, proxies
        # registered before it is filled: whoever bounds what a record may ask for is told in time
        self.weight = nn.Parameter(torch.empty(out_features, proxies, in_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)
        self.scale = nn.Parameter(torch.ones(1))
        self.fixed = 0

    def similarities(self, features: Tensor) -> Tensor:
        """[B, K] in [-1, 1]. With one proxy the cosine (Hou et al. 2019, eq. 4); of several each weighs what the softmax over them
        gives it (Douillard et al. 2020, eq. 7 and 8)."""
        weight = torch.cat([self.weight[: self.fixed].detach(), self.weight[self.fixed :]]) if self.fixed else self.weight
        cosines = F.linear(F.normalize(features, dim=-1), F.normalize(weight, dim=-1).flatten(0, 1)).unflatten(-1, weight.shape[:2])
        return cosines.squeeze(-1) if self.proxies == 1 else (cosines.softmax(-1) * cosines).sum(-1)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.similarities(features)


@dataclass(frozen=True)
class Cosine(Change):
    """A linear layer becomes a `CosineHead` of so many proxies a class, fresh weights; with one proxy those of the layer itself."""

    proxies: int

    name = "cosine"
    needs = """

class CosineHead(torch.nn.Module):
    def __init__(self, features, classes, proxies):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(classes, proxies, features))
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, features):
        normalize = torch.nn.functional.normalize
        cosines = normalize(features, dim=-1) @ normalize(self.weight, dim=-1).flatten(0, 1).T
        cosines = cosines.unflatten(-1, self.weight.shape[:2])
        return self.scale * (cosines.softmax(-1) * cosines).sum(-1)
"""

    def apply(self, part: nn.Module) -> nn.Module:
        old = linear(part)
        head = CosineHead(old.in_features, old.out_features, self.proxies).to(old.weight)
        if self.proxies == 1:
            with torch.no_grad():
                head.weight.copy_(old.weight[:, None])
        return head.train(old.training)

    def source(self, module: nn.Module, path: str) -> str:
        head = module.get_submodule(path)
        assert isinstance(head, CosineHead)
        return replaced(path, f"CosineHead({head.in_features}, {head.out_features}, {head.proxies})")
