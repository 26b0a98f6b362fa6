"""Make a net answer for batches of texts: it is given the tokens that its own reader sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distillctl.data.text.reader import IDS, LENGTHS, SECOND, TextReader
from distillctl.models.adapter import Adapter
from distillctl.models.taps import Taps
from distillctl.types import Output


class TextClassifier(Adapter):
    """Of batches as a corpus gives them. The net takes {input_ids, attention_mask} int64 [B, T], of pairs token_type_ids too where it knows them."""

    def __init__(self, net: nn.Module, reader: TextReader, takes_types: bool = False, taps: Taps | None = None):
        super().__init__(net, taps)
        self.reader, self.takes_types = reader, takes_types

    def forward(self, inputs: Any) -> Output:
        return super().forward(inputs)._replace(mask=self.mask(inputs))

    def prepare(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        mark, mask = self.reader.mark, self.mask(inputs)
        found = {"input_ids": inputs[f"{mark}.{IDS}"], "attention_mask": mask.long()}
        if self.takes_types and (second := inputs.get(f"{mark}.{SECOND}")) is not None:
            places = torch.arange(mask.shape[1], device=mask.device)
            found["token_type_ids"] = ((places >= second[:, None]) & mask).long()
        return found

    def mask(self, inputs: dict[str, Tensor]) -> Tensor:
        """bool [B, T]: which positions are a text's own."""
        ids, lengths = (inputs[f"{self.reader.mark}.{name}"] for name in (IDS, LENGTHS))
        return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]

    def settings(self) -> Any:
        return self.reader.mark
