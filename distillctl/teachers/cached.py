"""A teacher that is asked once about each view of each image, and whose answers are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillctl.errors import DataError
from distillctl.models.committee import tapped
from distillctl.models.taps import LOGITS
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import NONE, Layout, Words, input_marks
from distillctl.teachers.store import Store
from distillctl.types import Batch, Output, dtypes_of
from distillctl.types import rows as rows_of

FEWEST = 16  # images that are asked about at once: kernels for fewer round otherwise


class Cached(Frozen):
    """Answers as `teacher` does, from `store` where it can, with the features of `layout` in float32.

    like: what the teacher gives of these features for a few images, in its own order of names. They come back lying in memory as these
    do, since sums over a map that lies otherwise round otherwise.

    An answer that is new is rounded as its record is, so that a run that asks and one that reads get the same. For records in fp32 the
    whole batch is asked where one is missing: a kernel for another batch size may round otherwise. `rows` is each sample's place in the
    store by its index, int64; strict: a missing answer is an error; dtypes: of the inputs that views have, to tell them from others.
    Without a store all is asked, and rounded.
    """

    def __init__(
        self,
        teacher: Frozen,
        layout: Layout,
        store: Store | None,
        index: Tensor,
        strict: bool = False,
        like: Mapping[str, Tensor] = NONE,
        lacking: int = 0,
        dtypes: tuple[torch.dtype, ...] = (torch.uint8,),
    ):
        assert like.keys() == dict(layout.features).keys(), f"{list(like)} and {layout.features}"
        self.teacher, self.layout, self.store, self.strict = teacher, layout, store, strict
        self.model, self.precision, self.device, self.name = teacher.model, teacher.precision, teacher.device, teacher.name
        self.weights_mark = teacher.weights_mark
        self.rows = np.full(int(index.max()) + 1, -1, np.int64)
        self.rows[index.cpu().numpy()] = np.arange(len(index))
        self.orders = {name: memory_order(feature) for name, feature in like.items()}
        self.asked = self.read = 0
        self.turn = threading.RLock()  # a feed may look up the next batch meanwhile
        self.dtypes = dtypes
        self.lacking = lacking  # answers of those that will be read, as far as this process was told, before any was asked for

    def __call__(self, batch: Batch) -> Output:
        if batch.view < 0 or dtypes_of(batch.inputs) != self.dtypes:  # not a view of the training split
            return self.teacher(batch)
        if batch.answers is None:
            payloads = self.payloads(batch) if self.store is not None else self.ask(batch, np.arange(len(batch.index)))
            batch = batch._replace(answers=self.decoded(payloads, batch.targets.device))
        assert batch.answers is not None
        features = {name: lying(batch.answers[name], order) for name, order in self.orders.items()}
        return self.output(batch.answers[LOGITS], features, batch.targets)

    def recalling(self) -> Callable[[Batch], Batch]:
        """For one epoch: a function that gives a batch what is kept of the answers to it as a column, where all of it is there. Asks nothing.

        Where some are missing the view is being filled: the rest of the epoch is left to the steps, which look for themselves.
        """
        filling = self.store is None

        def recall(batch: Batch) -> Batch:
            nonlocal filling
            if filling or batch.view < 0:
                return batch
            with self.turn:
                assert self.store is not None
                rows = self.rows[batch.index.cpu().numpy()]
                found, there = self.store.read(batch.view, rows, input_marks(batch.inputs))
                filling = not there.all()
                self.read += 0 if filling else len(rows)
            return batch if filling else batch._replace(answers=self.decoded(found, batch.targets.device))

        return recall

    def decoded(self, payloads: Words, device: torch.device) -> dict[str, Tensor]:
        """What records hold, on the device: logits [B, M, K], and features by name."""
        kept = {LOGITS: self.layout.decode(payloads), **self.layout.decode_features(payloads)}
        return {name: value.to(device) for name, value in kept.items()}

    def payloads(self, batch: Batch) -> Words:
        """uint32 [B, W]"""
        with self.turn:
            return self.found_or_asked(batch)

    def found_or_asked(self, batch: Batch) -> Words:
        assert self.store is not None
        rows, marks = self.rows[batch.index.cpu().numpy()], input_marks(batch.inputs)
        found, there = self.store.read(batch.view, rows, marks)
        if self.strict or there.all():
            return self.completed(batch, rows, marks, found, there)
        with self.store.claimed(batch.view, int(rows[~there][0])):
            return self.completed(batch, rows, marks, *self.store.read(batch.view, rows, marks))

    def completed(self, batch: Batch, rows: NDArray[np.int64], marks: Words, found: Words, there: NDArray[np.bool_]) -> Words:
        """What was found, with what is missing asked for and kept."""
        assert self.store is not None
        self.read += int(there.sum())
        missing = np.flatnonzero(~there)
        if not len(missing):
            return found
        if self.strict:
            raise DataError(
                f"teacher.cache.mode=require: {self.store.file(batch.view)} lacks {len(missing)} answers to a batch's {len(there)} images; "
                "fill it with distillctl cache action=fill and these words"
            )
        fewest = len(there) if self.layout.dtype == "fp32" else min(FEWEST, len(there))
        wanted = np.concatenate([missing, np.flatnonzero(there)])[: max(fewest, len(missing))]
        if len(wanted) == len(there):
            wanted = np.arange(len(there))
        answers = self.ask(batch, wanted)
        place = np.empty(len(there), np.int64)
        place[wanted] = np.arange(len(wanted))
        found[missing] = answers[place[missing]]
        keep = missing[self.layout.finite(found[missing])]
        if len(keep) < len(missing):
            fits = " in fp16, and asked for at every step; set teacher.cache.dtype=fp32" if self.layout.dtype == "fp16" else ""
            self.store.tell(f"{self.store.folder}: answers of the teacher that are no finite numbers are not kept{fits}")
        self.store.write(batch.view, rows[keep], marks[keep], found[keep])
        return found

    def ask(self, batch: Batch, wanted: np.ndarray) -> Words:
        """uint32 [n, W]: what the teacher, or each of several, says about some of the images."""
        self.asked += len(wanted)
        if len(wanted) < len(batch.index):
            chosen = torch.from_numpy(wanted).to(batch.targets.device)
            batch = Batch(rows_of(batch.inputs, chosen), batch.targets[chosen], batch.index[chosen], batch.view)
        answer = self.teacher(batch)
        if isinstance(self.teacher, Ensemble):
            logits = torch.stack([answer.features[f"{name}.{LOGITS}"] for name in self.teacher.model.names], dim=1)
            return self.layout.encode(logits, answer.features)
        return self.layout.encode(answer.logits[:, None], answer.features)

    def output(self, logits: Tensor, features: Mapping[str, Tensor], targets: Tensor) -> Output:
        """From logits [B, M, K]; an ensemble's are put together anew, as weights and temperature may change."""
        if not isinstance(self.teacher, Ensemble):
            return Output(logits[:, 0], dict(features))
        logits = logits.transpose(0, 1).contiguous()
        answers = {name: Output(own, {}) for name, own in zip(self.teacher.model.names, logits, strict=True)}
        for name, feature in features.items():
            member, _, tap = name.partition(".")
            answers[member].features[tap] = feature
        members = tuple(answers.values()) if self.teacher.combine == "mean_loss" else ()
        return Output(self.teacher.combined(logits, targets), tapped(answers), members)


def features_of(teacher: Frozen, answer: Output) -> dict[str, Tensor]:
    """What is tapped of a teacher, without the logits of an ensemble's members, in its own order."""
    logits = {f"{name}.{LOGITS}" for name in teacher.model.names} if isinstance(teacher, Ensemble) else ()
    return {name: feature for name, feature in answer.features.items() if name not in logits}


def memory_order(values: Tensor) -> tuple[int, ...]:
    """The dimensions of a tensor as it lies in memory: (0, 1, 2, 3), or (0, 2, 3, 1) with the channels of a map last."""
    strides = values.stride()
    return tuple(sorted(range(values.ndim), key=lambda dim: -strides[dim]))


def lying(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same values, with their dimensions in memory as `memory_order` says."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return values.permute(order).contiguous().permute(back)
