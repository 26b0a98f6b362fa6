"""Who answers in `predict`, and the one that an exported file makes: images to probabilities by numpy and the file's own runtime. No torch here."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distillctl.config import ModelConfig, PredictConfig
from distillctl.data.image.files import middle_array, open_image
from distillctl.data.image.folder import images_below
from distillctl.errors import CheckpointError
from distillctl.formats import form_of
from distillctl.formats.format import PIXELS, Runner
from distillctl.models.record import Record
from distillctl.models.seen import is_of_images, seen_in
from distillctl.rank import own_processors


class Item(NamedTuple):
    """A sample that is asked about. what: the file that it is, or what was read of it."""

    name: str
    what: Any


class Predictor(ABC):
    """noun: what its samples are called, in the plural."""

    noun: str

    @abstractmethod
    def prepare(self) -> None:
        """Load what answers. Raises CheckpointError and MachineError."""

    @abstractmethod
    def files_below(self, folder: Path) -> tuple[list[Path], str]:
        """The files of one sample each below a folder, and in brackets what else lay there."""

    def rows(self, file: Path | None) -> Iterable[Item] | None:
        """The samples in a file, or in standard input; None where a file is one sample."""
        return None

    @abstractmethod
    def read(self, whats: Sequence[Any]) -> Any:
        """Samples by what items are. Raises DataError that names one."""

    @abstractmethod
    def joined(self, parts: Sequence[Any]) -> Any:
        """Samples that were read one by one."""

    @abstractmethod
    def probabilities(self, samples: Any) -> np.ndarray:
        """float32 [N, K], over the temperature of the record."""


class FilePredictor(Predictor):
    """An exported file. The middle of each image is made by Pillow, as data sets are read: a file that could do it itself passes it as it is.

    In the graph the same costs more than a small net does, and a batch of photos would be held at their own size.
    """

    noun = "images"
    runner: Runner

    def __init__(self, file: Path, record: Record, config: PredictConfig):
        self.file, self.record, self.config, self.seen = file, record, config, seen_in(record)
        scale = 1 / np.array(self.seen.std, np.float32)
        self.shift, self.scale = -np.array(self.seen.mean, np.float32) * scale, scale / np.float32(255)

    def prepare(self) -> None:
        self.runner = form_of(self.file).open(self.file, self.config.trainer.threads or threads_here())

    def files_below(self, folder: Path) -> tuple[list[Path], str]:
        return images_below(folder)

    def read(self, whats: Sequence[Path]) -> np.ndarray:
        size = self.runner.takes.size or self.seen.side
        return np.stack([middle_array(open_image(path, self.config.max_pixels), size, self.seen.crop) for path in whats])

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        logits = self.runner(self.normalised(samples) if self.runner.takes.kind == PIXELS else samples)
        if logits.shape != (len(samples), len(self.record.classes)):
            raise CheckpointError(
                f"checkpoint={self.file}: it answers {len(samples)} images with {list(logits.shape)}, and its record has {len(self.record.classes)} classes"
            )
        return softmax(logits / np.float32(self.record.temperature or 1.0))

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] to float32 [N, 3, S, S]."""
        return np.ascontiguousarray((self.shift + images * self.scale).transpose(0, 3, 1, 2))


def answers_alone(record: Record, model: ModelConfig) -> bool:
    """Whether a model is an exported file of images of which nothing is to be changed: then no net is built, and torch stays away."""
    plain = ModelConfig(name="recorded", checkpoint=model.checkpoint)
    return record.exported is not None and is_of_images(record) and model == plain


def softmax(logits: np.ndarray) -> np.ndarray:
    """[N, K] along K, in float32."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def threads_here() -> int:
    """As many as torch would take: OMP_NUM_THREADS, else one a core that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else own_processors()
