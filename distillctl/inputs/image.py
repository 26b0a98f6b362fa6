"""Images: RGB of one size, normalised by the net that sees them, in memory or decoded from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distillctl.config import DatasetConfig, ImageSetConfig, ModelConfig, PredictConfig
from distillctl.data.image import files, sets, upright
from distillctl.data.image.augment import Augment
from distillctl.data.image.folder import images_below
from distillctl.data.image.loader import ImageLoader, PlainImages, ReadOptions
from distillctl.data.loader import Place, PlainLoader, TrainLoader
from distillctl.data.split import DataSet, Excused, Split
from distillctl.formats.engine import Engine, Whole, is_whole
from distillctl.formats.program import Preprocess
from distillctl.inputs.contract import Contract
from distillctl.models.adapter import Adapter, Classifier
from distillctl.models.net import Net, build_net, plan_net
from distillctl.models.record import Record
from distillctl.models.script import Reading
from distillctl.models.seen import KIND, seen_in
from distillctl.models.trace import pixels
from distillctl.rank import own_processors
from distillctl.types import Inputs

FROM_FILES = 0.875  # of the short edge is kept where images are larger than what is seen of them


@dataclass(frozen=True)
class Images(Contract):
    """mean, std: of the channels of images in [0, 1]. crop: how much of the short edge of a larger image is seen."""

    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    crop: float = 1.0

    kind: ClassVar[str] = KIND
    noun: ClassVar[str] = "images"
    rate: ClassVar[str] = "img/s"
    attackable: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]] = files.SUFFIXES

    @classmethod
    def load(cls, config: DatasetConfig, class_names: Sequence[str] | None) -> tuple[DataSet, Images]:
        assert isinstance(config, ImageSetConfig)
        return cls.of(sets.load(config, class_names))

    @classmethod
    def load_again(cls, config: DatasetConfig, class_names: Sequence[str] | None, excused: Excused) -> tuple[DataSet, Images]:
        assert isinstance(config, ImageSetConfig)
        return cls.of(sets.load(config, class_names, excused))

    @classmethod
    def load_part(cls, config: DatasetConfig, excused: Excused | None) -> tuple[DataSet, Images]:
        assert isinstance(config, ImageSetConfig)
        return cls.of(sets.load(config, None, excused or Excused(), least=1))

    @classmethod
    def load_to_measure(cls, config: DatasetConfig, class_names: Sequence[str] | None, record: Record | None) -> tuple[DataSet, Images]:
        assert isinstance(config, ImageSetConfig)
        size = cls.from_record(record).image_size if record is not None else None
        return cls.of(sets.load_to_measure(config, class_names, record.dataset if record is not None else None, size))

    @classmethod
    def of(cls, data: sets.ImageSet) -> tuple[DataSet, Images]:
        crop = FROM_FILES if isinstance(data.test.inputs, list) else 1.0
        return data, cls(data.classes, data.image_size, data.mean, data.std, crop)

    @classmethod
    def most(cls, config: DatasetConfig, enough: int) -> int | None:
        assert isinstance(config, ImageSetConfig)
        return sets.most(config, enough)

    @classmethod
    def from_record(cls, record: Record) -> Images:
        seen = seen_in(record)
        return cls(record.classes, seen.side, seen.mean, seen.std, seen.crop)

    def record(self) -> dict[str, Any]:
        return {
            "image_size": self.image_size,
            "resize": round(self.image_size / self.crop),
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
        }

    def script(self) -> Reading:
        told = self.record()
        constants = f"SIZE, RESIZE, MEAN, STD = {told['image_size']}, {told['resize']}, {tuple(told['mean'])}, {tuple(told['std'])}"
        seen = Path(upright.__file__).read_text().partition(PILLOW)[2].lstrip()
        return Reading(
            "image.png", "Pillow and numpy", "import numpy as np\n", PILLOW, constants, f"{seen}\n\n{PREPROCESS}", "Image.open(path)"
        )

    def example(self, count: int, device: torch.device) -> Inputs:
        return torch.zeros(count, 3, self.image_size, self.image_size, dtype=torch.uint8, device=device)

    def net_example(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        return pixels(self.image_size)(device, dtype)

    def read(self, samples: Sequence[Any], config: PredictConfig) -> Inputs:
        opened = (files.open_image(path, config.max_pixels) for path in samples)
        return torch.stack([files.resize_and_center_crop(image, self.image_size, self.crop) for image in opened])

    def files_below(self, folder: Path) -> tuple[list[Path], str]:
        return images_below(folder)

    def train_loader(self, config: DatasetConfig, split: Split, batch_size: int, seed: int, place: Place) -> TrainLoader:
        assert isinstance(config, ImageSetConfig)
        view_seed = seed if config.view_seed is None else config.view_seed
        augment = Augment(config.augment, self.image_size, len(self.classes), view_seed)
        return ImageLoader(split, augment, batch_size, seed, place, self.reading(config, split), config.views)

    def plain_loader(self, config: DatasetConfig, split: Split, batch_size: int, place: Place, at_once: bool = False) -> PlainLoader:
        return PlainImages(split, batch_size, place, self.reading(config, split, at_once))

    def reading(self, config: DatasetConfig, split: Split, at_once: bool = False) -> ReadOptions:
        """Decoding processes: none for images in memory, else one a core that this process may use."""
        assert isinstance(config, ImageSetConfig)
        workers = 0
        if isinstance(split.inputs, list) and not at_once:
            workers = own_processors() if config.workers is None else config.workers
        return ReadOptions(self.image_size, workers, config.timeout_s, config.max_pixels)

    def build(self, config: ModelConfig, key: str) -> Net:
        return build_net(config, len(self.classes), self.image_size, key)

    def plan(self, config: ModelConfig, key: str) -> Net:
        return plan_net(config, len(self.classes), self.image_size, key)

    def adapt(self, net: Net) -> Adapter:
        seen = self.seen_by(net)
        if is_whole(net.module):
            assert isinstance(net.module, Engine)
            return Whole(net.module, None if seen.image_size == self.image_size else seen.image_size)
        return Classifier(net.module, seen.mean, seen.std, None if seen.image_size == self.image_size else seen.image_size)

    def seen_by(self, model: Adapter | Net) -> Images:
        if isinstance(model, Net):
            return replace(self, image_size=model.input_size or self.image_size, mean=model.mean or self.mean, std=model.std or self.std)
        if isinstance(model, Whole):
            return replace(self, image_size=model.resolution or self.image_size)
        assert isinstance(model, Classifier), type(model).__name__
        mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
        return replace(self, image_size=model.resolution or self.image_size, mean=mean, std=std)

    def check_export(self) -> None:
        """Any net of images can be written, as far as its format can hold it."""

    def before_net(self, model: Adapter, fixed: bool) -> nn.Module:
        assert isinstance(model, Classifier), type(model).__name__
        seen = self.seen_by(model)
        return Preprocess(self.image_size, round(self.image_size / self.crop), seen.mean, seen.std, seen.image_size, fixed)

    def file_example(self, model: Adapter, inside: bool, fixed: bool) -> Tensor:
        side = self.seen_by(model).image_size
        if not inside:
            return torch.zeros(2, 3, side, side)
        height, width = (self.image_size, self.image_size) if fixed else (self.image_size + 5, self.image_size + 9)
        return torch.zeros(2, height, width, 3, dtype=torch.uint8)

    @property
    def size(self) -> int:
        return self.image_size


PILLOW = "from PIL import Image\n"
PREPROCESS = '''def preprocess(image):
    """A PIL image of any mode as float [1, 3, SIZE, SIZE], normalised: the upright middle of it, as it was evaluated in training."""
    pixels = np.array(middle(upright(image), SIZE, RESIZE))
    pixels = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))[None]
'''
