"""Load an image set, split into train, validation and test."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distillctl.config import ImageSetConfig, check_named
from distillctl.data.cutting import divide
from distillctl.data.image import facts, folder, official, parts, reading
from distillctl.data.image.decoding import checked
from distillctl.data.image.files import BadImage, shown
from distillctl.data.split import DataSet, Excused, Source, Split
from distillctl.errors import ConfigError, DataError, did_you_mean
from distillctl.paths import as_path

__all__ = ["ImageSet", "Split", "check_size", "known", "load"]

OFFICIAL = ("cifar10", "cifar100", "digits", "fashion_mnist", "mnist")
FETCHED = {"cifar10": 50_000, "cifar100": 50_000, "fashion_mnist": 60_000, "mnist": 60_000}  # training images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_IN_MEMORY = 64  # pixels an edge
LARGEST_TOTAL = 2 * 2**30  # bytes of all images in memory, unless asked for
USUAL_SIZE = 224
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet(DataSet):
    """mean, std: of the training split in [0, 1], by channel; ImageNet's for files on disk, whose fingerprint is of relative names and sizes."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    listed: facts.Listed | None = field(default=None, repr=False, compare=False)  # of files on the disk

    def name_of(self, file: Path) -> str | None:
        return str(file.relative_to(self.listed.root)) if self.listed and file.is_relative_to(self.listed.root) else None

    def fingerprint_without(self, excused: Collection[str]) -> str:
        if self.listed is None:
            return self.fingerprint
        return self.listed.fingerprint(self.name, self.classes, self.image_size, excused)


def known() -> tuple[str, ...]:
    """The values of dataset.name."""
    return (*OFFICIAL, "image_folder")


def check_size(image_size: int | None) -> None:
    """Nothing can be seen in fewer than 4 x 4 pixels."""
    if image_size is not None and image_size < 4:
        raise ConfigError(f"dataset.image_size={image_size}: must be at least 4")


def load(
    config: ImageSetConfig, teacher_classes: Sequence[str] | None = None, excused: Excused = parts.NONE_EXCUSED, least: int = 2
) -> ImageSet:
    """The set that `config` describes. The same files and config give the same splits, everywhere.

    `teacher_classes` are the class names where images without labels have none of their own. least: how many classes a folder has to have.
    """
    check_size(config.image_size)
    check_named(config)
    if config.name == "image_folder":
        return _load_folder(config, teacher_classes, excused, least)
    if config.name not in OFFICIAL:
        raise ConfigError(f"dataset.name={config.name}: no such set; {did_you_mean(config.name, known())}")
    root, _ = _root(config)
    if config.name == "digits":
        source = official.digits()
    elif config.name.startswith("cifar"):
        source = official.cifar(config.name, root, config.download)
    else:
        source = official.mnist(config.name, root, config.download)
    splits = divide(source.train, None, source.test, source.classes, config)
    pixels = [part.inputs for part in splits if isinstance(part.inputs, Tensor)]
    size = config.image_size or pixels[0].shape[-1]
    if size != pixels[0].shape[-1]:
        pixels = [_resized(images, size) for images in pixels]
    origin = Source(len(source.train), ("val",) if source.test is not None else ("val", "test"))
    return _in_memory(config.name, source.classes, size, splits, pixels, [], origin)


def most(config: ImageSetConfig, enough: int) -> int | None:
    """How many training images there can be, from names alone; not looking beyond `enough` of them. None where nothing is found."""
    if config.name != "image_folder":
        return FETCHED.get(config.name)
    root, said = _root(config)
    try:
        found = folder.layout(root, said) if config.labels else folder.layout_without_labels(root, said)
        return folder.count(found.get("train", found.get("all", root)), enough)
    except DataError:
        return None  # loading says what is wrong


def load_to_measure(
    config: ImageSetConfig, class_names: Sequence[str] | None, learned: Mapping[str, Any] | None, size: int | None = None
) -> ImageSet:
    """The same for a model that is ready, whose classes are `class_names`.

    A folder without training images, and not the one that the model learned from, is measured whole: all of it is the test split, also
    where it has some of the classes only. learned: what the model's record says of its data. size: px that the model sees, as which other
    images than those are read where nothing else is said: `predict` sees them so too.
    """
    if config.name != "image_folder" or not config.labels:
        return load(config, class_names)
    root, said = _root(config)
    learned = learned if learned and learned.get("name") == config.name else {}
    before, seen = learned.get("root"), replace(config, image_size=config.image_size or size)
    if isinstance(before, str) and os.path.realpath(before) == os.path.realpath(root):
        return _load_folder(config, class_names)
    if parts.has_training_images(root, said):
        return _load_folder(seen, class_names)
    if isinstance(learned.get("fingerprint"), str):  # the same images in another place
        with suppress(DataError):
            found = _load_folder(config, class_names)
            if found.fingerprint == learned["fingerprint"]:
                return found
    return _read_parts(parts.to_measure(seen, root, said, class_names), seen, root)


def _load_folder(
    config: ImageSetConfig, class_names: Sequence[str] | None, excused: Excused = parts.NONE_EXCUSED, least: int = 2
) -> ImageSet:
    root, said = _root(config)
    return _read_parts(parts.to_train(config, root, said, class_names, excused, least), config, root)


def _read_parts(found: parts.Parts, config: ImageSetConfig, root: Path) -> ImageSet:
    """The pixels of files if they belong in memory. Of files that stay on the disk those of validation and test are decoded once, all the same."""
    splits = (found.train, found.val, found.test)
    paths = [part.inputs for part in splits if isinstance(part.inputs, list)]
    files, notes = [path for part in paths for path in part], list(found.notes)
    try:
        size, pixels, remarks = _read(files, config)
    except BadImage as problem:
        raise BadImage(f"{problem}; {parts.WAY_OUT}") from None
    if pixels is not None:
        notes.extend(f"{count} images were converted: {remark}" for remark, count in sorted(remarks.items()))
        named = [replace(part, names=[str(path.relative_to(root)) for path in files]) for part, files in zip(splits, paths, strict=True)]
        return _in_memory(config.name, found.classes, size, named, pixels.split([len(part) for part in splits]), notes, found.source)
    if config.on_bad_image == "error":  # else all are decoded already
        parts.refuse_bad(checked([*paths[1], *paths[2]], config.max_pixels))
    mark = facts.fingerprint(config.name, found.classes, size, splits, facts.file_digest(files, found.sizes, root))
    notes.extend(facts.duplicate_files(paths, found.sizes))
    listed = facts.Listed(root, found.listed, found.sizes)
    return ImageSet(config.name, found.classes, *splits, mark, notes, size, IMAGENET_MEAN, IMAGENET_STD, listed, source=found.source)


def _read(files: list[Path], config: ImageSetConfig) -> tuple[int, Tensor | None, Counter[str]]:
    """The image size, the pixels of all files if they belong in memory, and what was converted."""
    size = config.image_size
    if size is None:
        size = reading.common_edge(files, LARGEST_IN_MEMORY, config.max_pixels) or USUAL_SIZE
        check_size(size)
    fits = size <= LARGEST_IN_MEMORY and len(files) * 3 * size * size <= LARGEST_TOTAL
    if fits and config.image_size and config.augment.crop == "resized":  # crops are cut out of images as they are, and not of reduced ones
        fits = reading.common_edge(files, size, config.max_pixels) == size
    if config.in_memory == "never" or config.in_memory == "auto" and not fits:
        return size, None, Counter()
    reading.check_memory(len(files), size, f"dataset.in_memory={config.in_memory}")
    log.info("reading %d images into memory", len(files))
    return size, *reading.in_memory(files, size, config.max_pixels)


def _root(config: ImageSetConfig) -> tuple[Path, str]:
    """The root folder, and how to speak of it."""
    if config.root:
        return as_path(config.root), f"dataset.root={shown(config.root)}"
    if folder_set := os.environ.get("DISTILLCTL_DATA"):
        return as_path(folder_set), f"dataset.root is not set; DISTILLCTL_DATA={shown(folder_set)}"
    return Path("data"), "dataset.root is not set; ./data"


def _resized(images: Tensor, size: int) -> Tensor:
    return torch.cat([
        F.interpolate(piece.float(), (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
        for piece in images.split(1024)
    ])  # fmt: skip


def _in_memory(
    name: str,
    classes: tuple[str, ...],
    size: int,
    splits: Sequence[Split],
    pixels: Sequence[Tensor],
    notes: list[str],
    source: Source | None,
) -> ImageSet:
    """A set whose splits have the images `pixels`."""
    train, val, test = (replace(part, inputs=images) for part, images in zip(splits, pixels, strict=True))
    mean, std = facts.statistics(next(images for images in pixels if len(images)))
    mark = facts.fingerprint(name, classes, size, splits, facts.pixel_digest(pixels))
    return ImageSet(name, classes, train, val, test, mark, notes + facts.duplicate_pixels(*pixels), size, mean, std, source=source)
