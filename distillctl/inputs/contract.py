"""What every kind of input has to say of itself, so that the loop, methods, losses, teachers, kept answers and reports need not know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distillctl.config import AttackConfig, DatasetConfig, ModelConfig, PredictConfig
from distillctl.data.loader import Place, PlainLoader, TrainLoader
from distillctl.data.split import DataSet, Excused, Split
from distillctl.errors import ConfigError
from distillctl.models.adapter import Adapter
from distillctl.models.net import Net
from distillctl.models.record import Record
from distillctl.models.script import Reading
from distillctl.types import Inputs


@dataclass(frozen=True)
class Contract(ABC):
    """What models of a data set see and name. A frozen value; a kind is a class of it in `inputs.KINDS`.

    noun, rate: what people call samples, and how many of them a second. suffixes: of files of one sample each, for `predict` on a folder; empty where there are none.
    attackable: whether samples are tensors of values in [0, 1] that can be changed a little. steady: whether samples are all of one shape.
    """

    classes: tuple[str, ...]

    kind: ClassVar[str]
    noun: ClassVar[str] = "samples"
    rate: ClassVar[str] = "samples/s"
    suffixes: ClassVar[tuple[str, ...]] = ()
    attackable: ClassVar[bool] = False
    steady: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def load(cls, config: DatasetConfig, class_names: Sequence[str] | None) -> tuple[DataSet, Contract]:
        """The data set that a config describes, and its contract. class_names: of samples without labels, which may have no others."""

    @classmethod
    def load_again(cls, config: DatasetConfig, class_names: Sequence[str] | None, excused: Excused) -> tuple[DataSet, Contract]:
        """The same for a run that goes on though it ended by samples that cannot be used. Here as for its first attempt."""
        return cls.load(config, class_names)

    @classmethod
    def load_part(cls, config: DatasetConfig, excused: Excused | None) -> tuple[DataSet, Contract]:
        """The same for a part of what is learnt, as one task of several, which may have a single class. Here as for any training."""
        return cls.load(config, None) if excused is None else cls.load_again(config, None, excused)

    @classmethod
    def load_to_measure(cls, config: DatasetConfig, class_names: Sequence[str] | None, record: Record | None) -> tuple[DataSet, Contract]:
        """The same for a model that is ready, of which `record` says where it learned and what it sees. Here as for training."""
        return cls.load(config, class_names)

    @classmethod
    def most(cls, config: DatasetConfig, enough: int) -> int | None:
        """How many training samples there can be, told in an instant: without reading or fetching any, and not looking beyond `enough`. None: not known."""
        return None

    @classmethod
    @abstractmethod
    def from_record(cls, record: Record) -> Contract:
        """As a shipped model's record has it, whose `preprocessing` is what `record` gave. Raises Malformed where it is not."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What student.json says of preprocessing; `kind` among it."""

    @abstractmethod
    def script(self) -> Reading:
        """How the loading script reads a sample and brings it to what the net takes."""

    @abstractmethod
    def example(self, count: int, device: torch.device) -> Inputs:
        """Samples as batches hold them, to see what nets make of them; what they hold does not matter."""

    @abstractmethod
    def net_example(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """One sample as a net of this contract is given it."""

    @abstractmethod
    def read(self, samples: Sequence[Any], config: PredictConfig) -> Inputs:
        """Files of a sample each, or what `rows` gives, as batches hold them. Raises DataError that names one."""

    def rows(self, file: Path | None) -> Iterable[tuple[str, Any]] | None:
        """(name, sample) of those in a file, or in standard input where there is none; None where a file is one sample."""
        return None

    def beside(self, net: Net, role: str, weights: Mapping[str, Any]) -> dict[str, bytes]:
        """Files that belong to a shipped model, by their names. Here none."""
        return {}

    def reader_for(self, config: ModelConfig, key: str) -> Any:
        """How a net that has no record reads samples, where that is its own. Here nothing is."""
        return None

    def reader_of_record(self, record: Record, config: ModelConfig, file: Path, key: str) -> Any:
        """The same of a net that a record describes, whose weights are in `file`."""
        return None

    def outside(self, config: ModelConfig, key: str) -> Any:
        """What decides a net that is trained anew besides its config, its checkpoint and the data, as JSON; None where nobody can tell. Here nothing does."""
        return []

    def reading_mark(self) -> str:
        """A mark of how the net reads samples whose contract this is, where that is its own: a run that goes on must not read otherwise."""
        return ""

    def settle(self, kept: str | None, place: Path | None) -> None:
        """kept: what an earlier attempt of the run wrote to the file `place` of what is made of the data, such as a tokenizer. Here nothing is."""
        return

    def remarks(self) -> list[str]:
        """What is to be said of samples once models have read them."""
        return []

    def files_below(self, folder: Path) -> tuple[list[Path], str]:
        """The files of one sample each below a folder, in a stable order, and in brackets what else lay there; of images as data sets find them."""
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in self.suffixes and not file.name.startswith("."))
        return found, ""

    def train_loader(self, config: DatasetConfig, split: Split, batch_size: int, seed: int, place: Place) -> TrainLoader:
        """Views of a split; here the samples as they are."""
        return TrainLoader(split, batch_size, seed, place, config.views)

    def plain_loader(self, config: DatasetConfig, split: Split, batch_size: int, place: Place, at_once: bool = False) -> PlainLoader:
        """A split as it is measured. at_once: by this process, without workers."""
        return PlainLoader(split, batch_size, place)

    def build(self, config: ModelConfig, key: str) -> Net:
        """A net by its name; kinds without a catalogue of nets take one's own alone. Raises ConfigError."""
        raise ConfigError(
            f"{key}={config.name}: no nets by name for {self.noun}; give a class of your own: {key}=own {key}._target_=package.Class"
        )

    def plan(self, config: ModelConfig, key: str) -> Net:
        """As `build`, for its architecture alone: without memory or download."""
        return self.build(config, key)

    def adapt(self, net: Net) -> Adapter:
        """A net that answers samples of this data set."""
        return Adapter(net.module)

    def with_prompt(self, net: Net, count: int, seed: int, where: str) -> Net:
        """A net with virtual tokens in front of what it reads. where: the key that asks for it. Raises ConfigError where there is no such thing."""
        raise ConfigError(
            f"{where}: virtual tokens stand in front of texts, and the data set has {self.noun}; use {where.partition('=')[0]}=head"
        )

    def seen_by(self, model: Adapter | Net) -> Contract:
        """The contract as one model has it, which may see samples at a size or by statistics of its own."""
        return self

    def before_net(self, model: Adapter, fixed: bool) -> nn.Module:
        """What makes of samples as a file takes them what a model's net takes, for a file that holds it. fixed: of samples of one size."""
        raise NotImplementedError

    def file_example(self, model: Adapter, inside: bool, fixed: bool) -> Tensor:
        """Two samples as a file takes them, whose values do not matter."""
        raise NotImplementedError

    def check_export(self) -> None:
        """Whether there are files for other runtimes that take these samples: kinds that have `before_net`. Raises ConfigError."""
        raise ConfigError(f"export.format: files for other runtimes are made of nets that see images, and the data set has {self.noun}")

    def check_attack(self, attack: AttackConfig) -> None:
        """Raises ConfigError where there is an attack, and what it would change has no small changes."""
        if attack.name != "none" and not self.attackable:
            raise ConfigError(f"attack={attack.name} changes images a little, and the data set has {self.noun}; leave attack out")

    @property
    def size(self) -> int | None:
        """The side of a sample in px, where it has one."""
        return None
