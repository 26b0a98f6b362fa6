"""One data set as a process sees it: its splits, what models see of it, and loaders over them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distillctl.config import DatasetConfig, ImageSetConfig
from distillctl.data import sets
from distillctl.data.augment import Augment
from distillctl.data.loader import Place, PlainLoader, ReadOptions, TrainLoader
from distillctl.data.split import Split
from distillctl.models.obtain import Images
from distillctl.ranks import Rank
from distillctl.types import Batch

LEAST_AT_ONCE = 128  # samples that are measured together, however small the batches of training are


@dataclass(frozen=True)
class Bundle:
    """config: what it was loaded from. place: which part of each batch is this process's."""

    config: ImageSetConfig
    data: sets.DataSet
    inputs: Images
    batch_size: int
    place: Place

    @property
    def reading(self) -> ReadOptions:
        asked = workers(self.config.workers, self.data.train)
        return ReadOptions(self.data.image_size, asked, self.config.timeout_s, self.config.max_pixels)

    def train_batches(self, seed: int) -> TrainLoader:
        """`seed` decides order and views, of which `dataset.view_seed` takes the latter over."""
        view_seed = seed if self.config.view_seed is None else self.config.view_seed
        augment = Augment(self.config.augment, self.data.image_size, len(self.inputs.classes), view_seed)
        return TrainLoader(self.data.train, augment, self.batch_size, seed, self.place, self.reading, self.config.views)

    def plain_batches(self, split: Split, at_most: int | None = None) -> PlainLoader:
        size = max(self.batch_size, LEAST_AT_ONCE)
        return PlainLoader(split, min(size, at_most or size), self.place, self.reading)

    def few(self, count: int) -> Batch:
        """The first samples of the training split, to see what nets make of them; read in this process."""
        split = self.data.train
        samples = split.take(range(min(count, len(split))))
        [batch] = PlainLoader(samples, count, Place(self.place.device), replace(self.reading, workers=0))
        return batch

    def record(self) -> dict[str, Any]:
        """What a shipped model's record says of it, so that evaluate finds the same samples again."""
        root = self.config.root
        return asdict(self.config) | {"root": str(Path(root).resolve()) if root else None, "fingerprint": self.data.fingerprint}


def load(config: DatasetConfig, batch_size: int, place: Place, class_names: list[str] | None = None) -> Bundle:
    """`class_names`: of samples without labels, which may have no others."""
    assert isinstance(config, ImageSetConfig)
    data = sets.load(config, class_names)
    return Bundle(config, data, Images(data.classes, data.image_size, data.mean, data.std), batch_size, place)


def workers(asked: int | None, split: Split) -> int:
    """Decoding processes: none for samples in memory, else one a core that this process may use."""
    if not isinstance(split.images, list):
        return 0
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, cores // Rank.here().local_world)
