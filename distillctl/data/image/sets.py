"""Load an image set, split into train, validation and test."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from distillctl.config import ImageSetConfig
from distillctl.data.image import facts, folder, official, reading
from distillctl.data.image.files import BadImage, shown
from distillctl.data.split import DataSet, Split, divide, unlabelled, whole
from distillctl.errors import ConfigError, DataError, did_you_mean
from distillctl.paths import as_path

__all__ = ["ImageSet", "Split", "check_size", "known", "load"]

OFFICIAL = ("cifar10", "cifar100", "digits", "fashion_mnist", "mnist")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_IN_MEMORY = 64  # pixels an edge
LARGEST_TOTAL = 2 * 2**30  # bytes of all images in memory, unless asked for
USUAL_SIZE = 224
MOST_BAD = 0.1
WAY_OUT = "mend or remove it, or set dataset.on_bad_image=skip"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet(DataSet):
    """mean, std: of the training split in [0, 1], by channel; ImageNet's for files on disk, whose fingerprint is of relative names and sizes."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def known() -> tuple[str, ...]:
    """The values of dataset.name."""
    return (*OFFICIAL, "image_folder")


def check_size(image_size: int | None) -> None:
    """Nothing can be seen in fewer than 4 x 4 pixels."""
    if image_size is not None and image_size < 4:
        raise ConfigError(f"dataset.image_size={image_size}: must be at least 4")


def load(config: ImageSetConfig, teacher_classes: Sequence[str] | None = None) -> ImageSet:
    """The set that `config` describes. The same files and config give the same splits, everywhere.

    `teacher_classes` are the class names where images without labels have none of their own.
    """
    check_size(config.image_size)
    if config.name == "image_folder":
        return _load_folder(config, teacher_classes)
    if config.name not in OFFICIAL:
        raise ConfigError(f"dataset.name={config.name}: no such set; {did_you_mean(config.name, known())}")
    root, _ = _root(config)
    if config.name == "digits":
        source = official.digits()
    elif config.name.startswith("cifar"):
        source = official.cifar(config.name, root, config.download)
    else:
        source = official.mnist(config.name, root, config.download)
    parts = divide(source.train, None, source.test, source.classes, config)
    pixels = [part.inputs for part in parts if isinstance(part.inputs, Tensor)]
    size = config.image_size or pixels[0].shape[-1]
    if size != pixels[0].shape[-1]:
        pixels = [_resized(images, size) for images in pixels]
    return _in_memory(config.name, source.classes, size, parts, pixels, [])


def _load_folder(config: ImageSetConfig, teacher_classes: Sequence[str] | None) -> ImageSet:
    root, said = _root(config)
    if config.labels:
        found = folder.layout(root, said)
        listings = {part: folder.listing(place, root, said) for part, place in found.items()}
        names = _names_of_all(listings)
        classes = tuple(map(shown, names))
    else:
        found = folder.layout_without_labels(root, said)
        listings = {part: _listing_without_labels(part, found, root, said) for part in found}
        names, classes = _names_without_labels(listings, teacher_classes, said)
    notes = _scan_notes(listings, folder.unused(root, found))
    sizes: dict[Path, int] = {}
    sources: dict[str, Split] = {}
    for part, listing in listings.items():
        sources[part] = _without_bad(_source(listing, names), listing, config, notes)
        sizes.update(zip(listing.files, listing.sizes, strict=True))
        if listing.classes and (absent := [name for name, count in zip(names, sources[part].sizes(len(names)), strict=True) if count == 0]):
            if part in ("train", "all"):
                raise DataError(f"{shown(listing.folder)}: no readable images of {_some(absent)}")
            notes.append(f"{part} has no images of: {_some(absent)}")
    pool, val, test = sources.get("train", sources.get("all")), sources.get("val"), sources.get("test")
    assert pool is not None
    if test is None:  # as ImageNet is published: its val folder is what results are reported on
        val, test = None, val
        if test is not None:
            notes.append("val/ is the test split; a validation split is cut out of train/")
    parts = divide(pool, val, test, classes, config)

    paths = [part.inputs for part in parts if isinstance(part.inputs, list)]
    files = [path for part in paths for path in part]
    try:
        size, pixels, remarks = _read(files, config)
    except BadImage as problem:
        raise BadImage(f"{problem}; {WAY_OUT}") from None
    if pixels is not None:
        notes.extend(f"{count} images were converted: {remark}" for remark, count in sorted(remarks.items()))
        return _in_memory(config.name, classes, size, parts, pixels.split([len(part) for part in parts]), notes)
    mark = facts.fingerprint(config.name, classes, size, parts, facts.file_digest(files, sizes, root))
    notes.extend(facts.duplicate_files(paths, sizes))
    return ImageSet(config.name, classes, *parts, mark, notes, size, IMAGENET_MEAN, IMAGENET_STD)


def _names_of_all(listings: Mapping[str, folder.Listing]) -> tuple[str, ...]:
    """The class names of the training images, or an error where there is one only, or where another part has others."""
    first = listings[next(iter(listings))]
    if len(first.classes) < 2:
        raise DataError(f"{shown(first.folder)}: only one class, {shown(first.classes[0])}; a classifier needs two or more")
    for listing in listings.values():
        if extra := sorted(set(listing.classes) - set(first.classes)):
            raise DataError(f"{shown(listing.folder)} has classes that {shown(first.folder)} lacks: {_some(extra)}")
    return first.classes


def _listing_without_labels(part: str, found: Mapping[str, Path], root: Path, said: str) -> folder.Listing:
    """Validation and test images keep the labels that they have: folders in val/ and test/ are classes."""
    if part != "train" and folder.has_classes(found[part]):
        return folder.listing(found[part], root, said)
    return folder.listing_without_labels(found[part], [place for other, place in found.items() if other != part], said)


def _names_without_labels(
    listings: Mapping[str, folder.Listing], teacher_classes: Sequence[str] | None, said: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of class folders in the order of the targets, and the class names, of which those may be a part."""
    own = tuple(sorted({name for listing in listings.values() for name in listing.classes}))
    if teacher_classes is not None and {shown(name) for name in own} <= set(teacher_classes):
        folders = {shown(name): name for name in own}
        return tuple(folders.get(name, name) for name in teacher_classes), tuple(teacher_classes)
    if len(own) < 2:
        raise DataError(
            f"{said}: nothing names the classes of images without labels; give a teacher with a record (teacher.checkpoint=<run folder>), "
            "or some labelled images in test/CLASS"
        )
    return own, tuple(map(shown, own))


def _source(listing: folder.Listing, names: Sequence[str]) -> Split:
    if not listing.classes:
        return unlabelled(list(listing.files))
    number = {name: target for target, name in enumerate(names)}
    return whole(list(listing.files), torch.tensor([number[label] for label in listing.labels], dtype=torch.int64))


def _read(files: list[Path], config: ImageSetConfig) -> tuple[int, Tensor | None, Counter[str]]:
    """The image size, the pixels of all files if they belong in memory, and what was converted."""
    size = config.image_size
    if size is None:
        size = reading.common_edge(files, LARGEST_IN_MEMORY, config.max_pixels) or USUAL_SIZE
        check_size(size)
    fits = size <= LARGEST_IN_MEMORY and len(files) * 3 * size * size <= LARGEST_TOTAL
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


def _without_bad(source: Split, listing: folder.Listing, config: ImageSetConfig, notes: list[str]) -> Split:
    """`source` without the files that cannot be read, or an error that names one, as dataset.on_bad_image says."""
    bad = {position: f"{shown(listing.files[position])}: {reason}" for position, reason in listing.broken.items()}
    if config.on_bad_image == "error":
        if bad:
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise BadImage(f"{next(iter(bad.values()))}{more}; {WAY_OUT}")
        return source
    bad = reading.unreadable(listing.files, config.max_pixels)
    if not bad:
        return source
    first, total = next(iter(bad.values())), len(source)
    if len(bad) > MOST_BAD * total:
        raise DataError(f"dataset.on_bad_image=skip: {len(bad)} of {total} images are bad, more than {MOST_BAD:.0%}; the first is {first}")
    notes.append(f"{len(bad)} of {total} images in {shown(listing.folder)} cannot be read and were left out:")
    notes.extend(f"  {message}" for message in list(bad.values())[:10])
    return source.take([position for position in range(total) if position not in bad])


def _resized(images: Tensor, size: int) -> Tensor:
    return torch.cat([
        F.interpolate(piece.float(), (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
        for piece in images.split(1024)
    ])  # fmt: skip


def _in_memory(
    name: str, classes: tuple[str, ...], size: int, parts: Sequence[Split], pixels: Sequence[Tensor], notes: list[str]
) -> ImageSet:
    """A set whose splits have the images `pixels`."""
    train, val, test = (Split(images, part.targets, part.index) for part, images in zip(parts, pixels, strict=True))
    mean, std = facts.statistics(pixels[0])
    mark = facts.fingerprint(name, classes, size, parts, facts.pixel_digest(pixels))
    return ImageSet(name, classes, train, val, test, mark, notes + facts.duplicate_pixels(*pixels), size, mean, std)


def _scan_notes(listings: dict[str, folder.Listing], unused: list[str]) -> list[str]:
    seen = Counter[str]()
    for listing in listings.values():
        seen.update(listing.seen)
    notes = [f"{count} {what}" for what, count in sorted(seen.items()) if count]
    return notes + ([f"folders that were not read: {_some(unused)}"] if unused else [])


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
