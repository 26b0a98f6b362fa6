"""The last so many samples of a stream, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distillctl.types import Inputs, concatenated, mapped


class Ring:
    """inputs, targets int64 [N] and index int64 [N], the oldest first, N at most `size`. All of it is state."""

    def __init__(self, size: int, like: Inputs):
        self.size = size
        self.inputs = mapped(like, lambda column: column[:0].clone())
        self.targets = torch.zeros(0, dtype=torch.int64)
        self.index = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def bytes(self) -> int:
        held = [self.targets, self.index, *(self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs])]
        return sum(column.numel() * column.element_size() for column in held)

    def add(self, inputs: Inputs, targets: Tensor, index: Tensor) -> None:
        if not len(targets):
            return
        self.inputs = mapped(concatenated([self.inputs, inputs]), lambda column: column[-self.size :])
        self.targets = torch.cat([self.targets, targets.cpu()])[-self.size :]
        self.index = torch.cat([self.index, index.cpu()])[-self.size :]

    def state(self) -> dict[str, Any]:
        return {
            "inputs": mapped(self.inputs, lambda column: column.cpu().clone()),
            "targets": self.targets.clone(),
            "index": self.index.clone(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        device = next(iter(self.inputs.values())).device if isinstance(self.inputs, dict) else self.inputs.device
        self.inputs = mapped(state["inputs"], lambda column: column.to(device))
        self.targets, self.index = state["targets"], state["index"]
