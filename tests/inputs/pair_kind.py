"""A kind of input that is no image: dicts of two tensors, `numbers` float [B, 4] and `words` int64 [B, 3]. All that a new kind needs is here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distillctl.config import DatasetConfig, PredictConfig, number
from distillctl.data.cutting import divide
from distillctl.data.split import DataSet, whole
from distillctl.inputs.contract import Contract
from distillctl.models.record import Record
from distillctl.models.script import Reading
from distillctl.types import Inputs

NUMBERS, WORDS, VOCABULARY = 4, 3, 6


@dataclass
class PairsConfig(DatasetConfig):
    """Drawn pairs, whose class follows from the first number and the first word."""

    count: int = number(300, decides="answers", low=30)


@dataclass(frozen=True)
class Pairs(Contract):
    kind: ClassVar[str] = "pairs"
    noun: ClassVar[str] = "pairs"
    rate: ClassVar[str] = "pairs/s"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    @classmethod
    def load(cls, config: DatasetConfig, class_names: Sequence[str] | None) -> tuple[DataSet, Pairs]:
        assert isinstance(config, PairsConfig)
        draw = torch.Generator().manual_seed(5)
        inputs = {
            "numbers": torch.randn(config.count, NUMBERS, generator=draw),
            "words": torch.randint(VOCABULARY, (config.count, WORDS), generator=draw),
        }
        targets = (inputs["numbers"][:, 0] > 0).long() + (inputs["words"][:, 0] > 2).long()
        classes = ("none", "one", "both")
        train, val, test = divide(whole(inputs, targets), None, None, classes, config)
        digest = hashlib.sha256(inputs["numbers"].numpy().tobytes() + inputs["words"].numpy().tobytes()).hexdigest()
        mark = f"{digest} {train.index.tolist()} {val.index.tolist()} {train.labelled}"
        return DataSet(config.name, classes, train, val, test, hashlib.sha256(mark.encode()).hexdigest(), []), cls(classes)

    @classmethod
    def from_record(cls, record: Record) -> Pairs:
        return cls(record.classes)

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def script(self) -> Reading:
        return Reading(
            "pair.json", "nothing else", "import json\n", "", f"WORDS = {WORDS}", PREPROCESS, "json.loads(Path(path).read_text())"
        )

    def example(self, count: int, device: torch.device) -> Inputs:
        return {
            "numbers": torch.zeros(count, NUMBERS, device=device),
            "words": torch.zeros(count, WORDS, dtype=torch.int64, device=device),
        }

    def net_example(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        return self.example(1, device)

    def read(self, files: Sequence[Path], config: PredictConfig) -> Inputs:
        told = [json.loads(file.read_text()) for file in files]
        return {"numbers": torch.tensor([each["numbers"] for each in told]), "words": torch.tensor([each["words"] for each in told])}


PREPROCESS = '''def preprocess(pair):
    """A mapping of two lists as the net takes it."""
    assert len(pair["words"]) == WORDS
    return {"numbers": torch.tensor([pair["numbers"]]), "words": torch.tensor([pair["words"]])}
'''


class PairNet(nn.Module):
    """An LSTM over the words, beside the numbers."""

    def __init__(self, num_classes: int, width: int = 8):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.read = nn.LSTM(width, width, batch_first=True)
        self.hidden = nn.Linear(width + NUMBERS, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        read, _ = self.read(self.embed(inputs["words"]))
        return self.head(torch.relu(self.hidden(torch.cat([read[:, -1], inputs["numbers"]], dim=1))))
