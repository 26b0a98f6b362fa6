"""The one that answers in `predict` where a net has to be built: by torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillctl.commands.predictor import Item, Predictor
from distillctl.config import ModelConfig, PredictConfig
from distillctl.inputs import from_record
from distillctl.models.obtain import obtain
from distillctl.models.record import Record
from distillctl.runtime import Runtime
from distillctl.types import Inputs, concatenated, to


class NetPredictor(Predictor):
    def __init__(self, record: Record, model: ModelConfig, config: PredictConfig, machine: Runtime):
        self.inputs, self.temperature, self.config, self.machine = from_record(record), record.temperature or 1.0, config, machine
        self.noun, self.model = self.inputs.noun, model

    def prepare(self) -> None:
        self.net: Any = obtain(self.model, self.inputs, "model", seed=0).classifier.to(self.machine.device).eval()

    def files_below(self, folder: Path) -> tuple[list[Path], str]:
        return self.inputs.files_below(folder)

    def rows(self, file: Path | None) -> Iterable[Item] | None:
        found = self.inputs.rows(file)
        return None if found is None else (Item(name, what) for name, what in found)

    def read(self, whats: Sequence[Any]) -> Inputs:
        return self.inputs.read(whats, self.config)

    def joined(self, parts: Sequence[Inputs]) -> Inputs:
        return concatenated(parts)

    def probabilities(self, samples: Inputs) -> np.ndarray:
        with torch.inference_mode(), self.machine.autocast():
            logits = self.net(to(samples, self.machine.device)).logits.float()
        found: np.ndarray = (logits / self.temperature).softmax(-1).cpu().numpy()
        return found
