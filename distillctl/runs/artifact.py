"""What a step that trains nothing works with: the model, samples of the splits, and the place for what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from distillctl.data.cutting import cut
from distillctl.data.loader import Place, PlainLoader
from distillctl.data.split import Split
from distillctl.errors import DataError
from distillctl.metrics.answers import own_answers
from distillctl.models.obtain import Obtained, obtain
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.sources import Given
from distillctl.runs.steps import Transform


@dataclass(frozen=True)
class Work:
    """Of one step, on rank 0. folder: of the step."""

    session: Session
    step: Transform
    folder: Path

    @property
    def file(self) -> Path:
        """What the step leaves."""
        return self.folder / f"{self.step.role}{self.step.suffix}"

    @cached_property
    def bundle(self) -> Bundle:
        """The data, all of each batch on this process."""
        found = self.session.bundle(self.step.data)
        return replace(found, place=Place(torch.device("cpu")))

    @cached_property
    def model(self) -> Obtained:
        """On the CPU, in fp32 and eval mode: what is exported is measured so."""
        assert isinstance(self.step.model, Given), self.step.model
        found = obtain(self.step.model.model, self.bundle.inputs, self.step.role, self.step.seed)
        found.classifier.eval()
        return found

    def keep(self, model: Obtained) -> None:
        """What has become of the model."""
        self.__dict__["model"] = model

    def training(self, count: int) -> PlainLoader:
        """So many training samples as they are measured, the classes in proportion, the same ones every time; all where there are fewer."""
        return self.bundle.plain_batches(self.some(self.bundle.data.train, count, "calibration"))

    def validation(self, count: int | None = None) -> PlainLoader:
        """Validation samples, all unless a number is given."""
        val = self.bundle.data.val
        return self.bundle.plain_batches(val if count is None else self.some(val, count, "verification"))

    def some(self, split: Split, count: int, key: str) -> Split:
        if not len(split):
            raise DataError(f"{self.step.name}: there are no samples to look at; give the data that the model learned from, dataset=<name>")
        classes = len(self.bundle.data.classes)
        return split if count >= len(split) else cut(split, count, classes, f"{key} {self.step.seed}", left=0)[1]

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """Logits [N, K] and targets [N] of the model for all validation samples."""
        return own_answers(self.model.classifier, self.validation())

    @property
    def labelled(self) -> bool:
        return self.bundle.data.val.labelled
