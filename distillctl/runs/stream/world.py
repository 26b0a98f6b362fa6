"""What a student of a stream sees and names, where its samples lie in `stream.path`: classes, image size, and no data set besides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distillctl.config import DatasetConfig, ImageSetConfig, StreamConfig
from distillctl.data.image.files import open_image, shown
from distillctl.data.image.sets import IMAGENET_MEAN, IMAGENET_STD, LARGEST_IN_MEMORY, USUAL_SIZE
from distillctl.data.loader import Place
from distillctl.data.split import DataSet, Split
from distillctl.entries import Malformed, integer, texts
from distillctl.errors import CheckpointError, ConfigError, DataError
from distillctl.inputs.image import Images
from distillctl.models.obtain import source_of
from distillctl.models.record import Record
from distillctl.paths import as_path
from distillctl.runs.bundle import Bundle
from distillctl.runs.stream import dated, table
from distillctl.runs.stream.source import Found

KEY = "stream"  # of run.json: what was found of classes and size, once for all attempts


def kind_of_source(config: StreamConfig) -> str:
    """`stream.source`, or what lies there. Raises ConfigError and DataError."""
    stage = config.stream
    if stage.path is None:
        if stage.source not in (None, "dataset"):
            raise ConfigError(f"stream.source={stage.source}: stream.path is not set: pass stream.path=<where the samples are>")
        return "dataset"
    if stage.source == "dataset":
        raise ConfigError(f"stream.source=dataset and stream.path={stage.path} are two streams; leave one of them out")
    root = as_path(stage.path)
    if not root.exists():
        raise DataError(f"stream.path={shown(stage.path)}: no such file or folder")
    if stage.source is not None:
        if root.is_dir() == (stage.source == "csv"):
            what, needed = ("a folder", "a CSV") if root.is_dir() else ("a file", "a folder")
            raise DataError(f"stream.path={shown(stage.path)} is {what}, and stream.source={stage.source} takes {needed}")
        return stage.source
    if not root.is_dir():
        return "csv"
    if dated.has_dates(root):
        return "folders"
    raise ConfigError(f"stream.path={shown(stage.path)}: {dated.EXPECTED}, or stream.source=watch for a folder to which images come")


def listed(config: StreamConfig, kind: str) -> list[Found]:
    """What lies there by now; of a watched folder nothing, which comes later."""
    root = as_path(str(config.stream.path))
    if kind == "watch":
        return []
    return table.listed(root) if kind == "csv" else dated.listed(root, config.stream.order_seed)


def bundle_of(config: StreamConfig, data: DatasetConfig, place: Place, batch_size: int, before: Any) -> tuple[Bundle, dict[str, Any]]:
    """Contract and empty splits, and what run.json keeps of it. before: what it kept of an earlier attempt. Raises UserError."""
    kind = kind_of_source(config)
    if not isinstance(data, ImageSetConfig):
        raise ConfigError(f"dataset={data.name}: files of a stream are read as images; pass dataset=image_folder")
    if data.name != "image_folder" or data.root is not None:
        key = "dataset.root" if data.root is not None else f"dataset={data.name}"
        raise ConfigError(f"{key} and stream.path={config.stream.path} both say which samples come; leave the first out")
    if before is not None:
        classes, size = known(before)
    else:
        found = listed(config, kind)
        record = recorded(config)
        classes = classes_of(config, kind, found, record)
        size = data.image_size or (record.preprocessing.get("image_size") if record is not None else None) or size_of(config, kind, found)
    inputs = Images(classes, int(size), IMAGENET_MEAN, IMAGENET_STD)
    mark = hashlib.sha256(ascii((kind, classes, size)).encode()).hexdigest()
    nothing = empty(int(size))
    return (
        Bundle(data, DataSet("stream", classes, nothing, nothing, nothing, mark, []), inputs, batch_size, place),
        {"source": kind, "classes": list(classes), "image_size": int(size)},
    )


def empty(size: int) -> Split:
    """No images, of so many px."""
    return Split(torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def known(before: Any) -> tuple[tuple[str, ...], int]:
    """Raises CheckpointError where run.json has it otherwise than we write it."""
    try:
        if not isinstance(before, Mapping):
            raise Malformed(f"{KEY} has to be a mapping")
        classes, size = texts(before, "classes", inside=f"{KEY}."), integer(before, "image_size", inside=f"{KEY}.", low=4, high=4096)
    except Malformed as error:
        raise CheckpointError(f"run.json: not the record of a stream ({error})") from None
    return tuple(classes), size


def recorded(config: StreamConfig) -> Record | None:
    """The record of the weights that the student begins with."""
    return source_of(config.student, "student")[1] if config.student.checkpoint is not None and not config.student.new_head else None


def classes_of(config: StreamConfig, kind: str, found: Sequence[Found], record: Record | None) -> tuple[str, ...]:
    """As they are given, as the student knows them, or as they are found. Raises ConfigError and DataError."""
    if config.stream.classes:
        if len(set(config.stream.classes)) != len(config.stream.classes):
            raise ConfigError(f"stream.classes={config.stream.classes}: a class is named twice")
        names = config.stream.classes
    elif record is not None:
        names = list(record.classes)
    else:
        root = as_path(str(config.stream.path))
        there = [folder.name for folder in dated.folders_of(root)] if kind == "watch" else [item.label for item in found]
        names = sorted({label for label in there if label is not None})
    if len(names) < 2:
        told = f"{len(names)} class is" if len(names) == 1 else "no classes are"
        raise ConfigError(f"stream.path={config.stream.path}: {told} there by now; name all that will come: stream.classes=[cat,dog]")
    return tuple(names)


def size_of(config: StreamConfig, kind: str, found: Sequence[Found]) -> int:
    """Of square images up to 64 px their own side, as the first has it; else 224."""
    if kind == "watch":
        raise ConfigError(
            "dataset.image_size is not set: of images that are still to come nobody knows the size; pass dataset.image_size=32"
        )
    image = open_image(found[0].file, config.dataset.max_pixels)  # type: ignore[attr-defined]
    with image:
        return image.width if image.width == image.height <= LARGEST_IN_MEMORY else USUAL_SIZE
