"""One data set as a process sees it: its splits, what models see of it, and loaders over them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from distillctl.config import DatasetConfig
from distillctl.config.training import LEAST_AT_ONCE
from distillctl.config.training import at_once as at_once
from distillctl.data.balance import class_weights
from distillctl.data.loader import Place, PlainLoader, TrainLoader
from distillctl.data.split import DataSet, Excused, Split
from distillctl.errors import CheckpointError
from distillctl.inputs import from_record, kind_of
from distillctl.inputs.contract import Contract
from distillctl.models.record import Record
from distillctl.paths import as_path
from distillctl.teachers.answers.matching import Known
from distillctl.types import Batch

if TYPE_CHECKING:
    from distillctl.runs.lifelong.tasks import Tasks


@dataclass(frozen=True)
class Bundle:
    """config: what it was loaded from. place: which part of each batch is this process's. tasks: into which it is divided, if it is.

    answers: what the teacher's file knows of it, where the teacher is one.
    """

    config: DatasetConfig
    data: DataSet
    inputs: Contract
    batch_size: int
    place: Place
    tasks: Tasks | None = None
    answers: Known | None = None

    def train_batches(self, seed: int) -> TrainLoader:
        """`seed` decides order and views, of which `dataset.view_seed` takes the latter over."""
        found = self.inputs.train_loader(self.config, self.data.train, self.batch_size, seed, self.place)
        found.balanced = self.config.balance == "oversample"
        return found

    def class_weights(self) -> Tensor | None:
        """What labels weigh, float32 [K]; None where all weigh the same."""
        return class_weights(self.data.train.targets, len(self.data.classes)) if self.config.balance == "class_weights" else None

    def plain_batches(self, split: Split, at_most: int | None = None) -> PlainLoader:
        size = max(self.batch_size, LEAST_AT_ONCE)
        return self.inputs.plain_loader(self.config, split, min(size, at_most or size), self.place)

    def few(self, count: int) -> Batch:
        """The first samples of the training split, to see what nets make of them; read in this process."""
        split = self.data.train
        samples = split.take(range(min(count, len(split))))
        [batch] = self.inputs.plain_loader(self.config, samples, count, Place(self.place.device), at_once=True)
        return batch

    def described(self) -> str:
        """One line: which data these are, and how many."""
        data, where = self.data, f" {self.config.root}" if self.config.root else ""
        counts = f"{len(data.train):,} training, {len(data.val):,} validation and {len(data.test):,} test {self.inputs.noun}"
        return f"data: {data.name}{where}, {counts} of {len(data.classes):,} classes"

    def record(self) -> dict[str, Any]:
        """What a shipped model's record says of it, so that evaluate finds the same samples again."""
        root = self.config.root
        return asdict(self.config) | {"root": str(as_path(root).resolve()) if root else None, "fingerprint": self.data.fingerprint}


def load(
    config: DatasetConfig,
    batch_size: int,
    place: Place,
    class_names: list[str] | None = None,
    excused: Excused | None = None,
    part: bool = False,
) -> Bundle:
    """`class_names`: of samples without labels, which may have no others. batch_size: 0 where it is chosen by what was loaded. part: of several sets, which make one."""
    kind = kind_of(config)
    if part:
        return Bundle(config, *kind.load_part(config, excused), batch_size, place)
    data, inputs = kind.load(config, class_names) if excused is None else kind.load_again(config, class_names, excused)
    return Bundle(config, data, inputs, batch_size, place)


def load_to_measure(config: DatasetConfig, batch_size: int, place: Place, class_names: list[str] | None, record: Record | None) -> Bundle:
    """The same for a model that is ready, by its classes. record: where it learned and what it sees."""
    kind = kind_of(config)
    if record is not None and (theirs := from_record(record)).kind != kind.kind:
        raise CheckpointError(f"model.checkpoint takes {theirs.noun}, and the data set has {kind.noun}; give a model of these")
    data, inputs = kind.load_to_measure(config, class_names, record)
    if class_names is not None:
        data = data.by_classes(class_names)
    return Bundle(config, data, replace(inputs, classes=data.classes), batch_size, place)
