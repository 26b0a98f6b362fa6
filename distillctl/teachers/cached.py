"""A teacher that is asked once about each view of each image, and whose answers are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distillctl.errors import DataError
from distillctl.models.committee import tapped
from distillctl.models.taps import LOGITS
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout, Words, image_marks
from distillctl.teachers.store import Store
from distillctl.types import Batch, Output

FEWEST = 16  # images that are asked about at once: kernels for fewer round otherwise


class Cached(Frozen):
    """Answers as `teacher` does, from `store` where it can. Only logits: a teacher whose features are read is asked itself.

    An answer that is new is rounded as its record is, so that a run that asks and one that reads get the same. For records in fp32 the
    whole batch is asked where one is missing: a kernel for another batch size may round otherwise. `rows` is each sample's place in the
    store by its index, int64; strict: a missing answer is an error. Without a store all is asked, and rounded.
    """

    def __init__(self, teacher: Frozen, layout: Layout, store: Store | None, index: Tensor, strict: bool = False):
        self.teacher, self.layout, self.store, self.strict = teacher, layout, store, strict
        self.model, self.precision, self.device, self.name = teacher.model, teacher.precision, teacher.device, teacher.name
        self.rows = np.full(int(index.max()) + 1, -1, np.int64)
        self.rows[index.cpu().numpy()] = np.arange(len(index))
        self.asked = self.read = 0

    def __call__(self, batch: Batch) -> Output:
        if batch.view < 0 or batch.inputs.dtype != torch.uint8:  # not a view of the training split
            return self.teacher(batch)
        payloads = self.payloads(batch) if self.store is not None else self.layout.encode(self.ask(batch, np.arange(len(batch.index))))
        return self.output(self.layout.decode(payloads).to(batch.inputs.device), batch.targets)

    def payloads(self, batch: Batch) -> Words:
        """uint32 [B, W]"""
        assert self.store is not None
        rows, marks = self.rows[batch.index.cpu().numpy()], image_marks(batch.inputs)
        found, there = self.store.read(batch.view, rows, marks)
        self.read += int(there.sum())
        missing = np.flatnonzero(~there)
        if not len(missing):
            return found
        if self.strict:
            raise DataError(
                f"teacher.cache.mode=require: {self.store.file(batch.view)} lacks {len(missing)} answers to a batch's {len(there)} images; "
                "fill it with teacher.cache.mode=fill"
            )
        fewest = len(there) if self.layout.dtype == "fp32" else min(FEWEST, len(there))
        wanted = np.concatenate([missing, np.flatnonzero(there)])[: max(fewest, len(missing))]
        if len(wanted) == len(there):
            wanted = np.arange(len(there))
        answers = self.layout.encode(self.ask(batch, wanted))
        place = np.empty(len(there), np.int64)
        place[wanted] = np.arange(len(wanted))
        found[missing] = answers[place[missing]]
        keep = missing[np.isfinite(self.layout.decode(found[missing]).flatten(1).sum(1).numpy())]
        self.store.write(batch.view, rows[keep], marks[keep], found[keep])
        return found

    def ask(self, batch: Batch, wanted: np.ndarray) -> Tensor:
        """Logits [n, M, K] of the teacher, or of each of several, about some of the images."""
        self.asked += len(wanted)
        if len(wanted) < len(batch.index):
            chosen = torch.from_numpy(wanted).to(batch.inputs.device)
            batch = Batch(batch.inputs[chosen], batch.targets[chosen], batch.index[chosen], batch.view)
        answer = self.teacher(batch)
        if isinstance(self.teacher, Ensemble):
            return torch.stack([answer.features[f"{name}.{LOGITS}"] for name in self.teacher.model.names], dim=1)
        return answer.logits[:, None]

    def output(self, logits: Tensor, targets: Tensor) -> Output:
        """From logits [B, M, K]; an ensemble's are put together anew, as weights and temperature may change."""
        if not isinstance(self.teacher, Ensemble):
            return Output(logits[:, 0], {})
        answers = {name: Output(own, {}) for name, own in zip(self.teacher.model.names, logits.unbind(1), strict=True)}
        members = tuple(answers.values()) if self.teacher.combine == "mean_loss" else ()
        return Output(self.teacher.combined(logits.transpose(0, 1).contiguous(), targets), tapped(answers), members)
