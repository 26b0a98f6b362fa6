"""Batches of texts: of a like length together, so that little is filled up; order and views are functions of seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillctl.config import TextAugmentConfig
from distillctl.data.loader import Place, PlainLoader, TrainLoader
from distillctl.data.split import Split
from distillctl.data.text import views
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.reader import Words
from distillctl.draws import permutation
from distillctl.types import Batch, Inputs


class TextLoader(TrainLoader):
    """bucket: how many batches are sorted by length among each other; 0: none. `split.inputs` are rows of the corpus."""

    def __init__(
        self,
        split: Split,
        corpus: Corpus,
        batch_size: int,
        seed: int,
        place: Place,
        bucket: int,
        augment: TextAugmentConfig,
        view_seed: int,
        views: int | None = None,
    ):
        # texts that are not augmented have one view: answers to it serve all epochs
        super().__init__(split, batch_size, seed, place, views if augment.mask or augment.drop else 1)
        assert isinstance(split.inputs, Tensor)
        self.rows, self.corpus, self.bucket, self.augment, self.view_seed = split.inputs, corpus, bucket, augment, view_seed
        self.lengths = torch.from_numpy(corpus.sizes)[split.inputs]

    def order(self, epoch: int) -> Tensor:
        """As any order, with the samples of some batches at a time sorted by length and dealt out to them: which these are is drawn."""
        drawn = super().order(epoch)
        if self.bucket < 2 or len(self.sizes) < 2:
            return drawn
        used, spare = drawn[: self.samples_per_epoch], drawn[self.samples_per_epoch :]
        slots = permutation(len(self.sizes), self.seed, "buckets", epoch).tolist()
        found: list[Tensor] = [used[:0]] * len(slots)
        begin = 0
        for first in range(0, len(slots), self.bucket):
            pool = slots[first : first + self.bucket]
            sizes = [self.sizes[slot] for slot in pool]
            members = used[begin : begin + sum(sizes)]
            begin += sum(sizes)
            members = members[self.lengths[members].argsort(stable=True)]
            for slot, part in zip(pool, members.split(sizes), strict=True):
                found[slot] = part
        return torch.cat([*found, spare])

    def show(self, pieces: Sequence[Tensor], view: int) -> Iterator[Batch]:
        for piece in pieces:
            row = piece.to(self.place.device)
            inputs = self.corpus.batch(self.rows[piece.cpu()], self.place.device, self.words(self.split.index[piece.cpu()], view))
            yield Batch(inputs, self.targets[row], self.index[row], view)

    def words(self, index: Tensor, view: int) -> Words | None:
        """What a view does to the words of these samples; None where it shows them as they are."""
        if not (self.augment.mask or self.augment.drop):
            return None
        return Words(self.view_seed, view, index, self.augment.mask, self.augment.drop)

    def deciding(self) -> dict[str, Any]:
        if not (self.augment.mask or self.augment.drop):
            return {}
        return {"mask": self.augment.mask, "drop": self.augment.drop, "view_seed": self.view_seed, "view_scheme": views.SCHEME}


class PlainTexts(PlainLoader):
    """Texts as they are measured, the shortest first."""

    def __init__(self, split: Split, corpus: Corpus, batch_size: int, place: Place):
        super().__init__(split, batch_size, place)
        assert isinstance(split.inputs, Tensor)
        self.corpus, self.own = corpus, torch.arange(place.rank, len(split), place.world)
        self.order = torch.from_numpy(corpus.sizes)[split.inputs[self.own]].argsort(stable=True)

    def __iter__(self) -> Iterator[Batch]:
        assert isinstance(self.split.inputs, Tensor)
        assert self.order is not None
        rows, device = self.split.inputs, self.place.device
        for piece in self.own[self.order].split(self.batch_size):
            inputs: Inputs = self.corpus.batch(rows[piece], device)
            yield Batch(inputs, self.split.targets[piece].to(device), self.split.index[piece].to(device), view=-1)


def padding(lengths: np.ndarray, batches: Sequence[Tensor]) -> float:
    """Positions of all batches over those that are real, 1 where nothing is filled up. lengths: of each sample, tokens."""
    filled = sum(len(batch) * int(lengths[batch.numpy()].max()) for batch in batches)
    return filled / max(int(sum(lengths[batch.numpy()].sum() for batch in batches)), 1)
