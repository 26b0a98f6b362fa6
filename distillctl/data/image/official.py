"""The small official sets: digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, whole and in memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from distillctl.data.image.download import fetch, unpack
from distillctl.data.split import Split, whole
from distillctl.errors import DataError, MachineError
from distillctl.files import read_bytes

IDX_BYTES = 0x08  # the type of values in an idx file: unsigned bytes


class Official(NamedTuple):
    """A set as published: its train part, its test part where it has one, and its class names."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]


def is_below(name: str, root: Path) -> bool:
    """Whether files of the official set `name` lie below a folder; false for a set that is none, and for one without files."""
    from torchvision import datasets

    names = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
    if name not in names:
        return False
    kind = getattr(datasets, names[name])
    places = (kind.base_folder, kind.filename) if name.startswith("cifar") else (kind.__name__,)
    return any((root / place).exists() for place in places)


def digits() -> Official:
    """1,797 handwritten digits of 8x8 pixels out of scikit-learn; no test part."""
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    gray = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Official(_split(gray, targets, 10, "digits"), None, tuple("0123456789"))


def mnist(name: str, root: Path, download: bool) -> Official:
    """`mnist` or `fashion_mnist`: four idx files in root/MNIST/raw or root/FashionMNIST/raw, as they are or gzipped."""
    from torchvision import datasets

    official = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    place = f"{official.__name__}/raw"
    content = {}
    for archive, md5 in official.resources:
        path, raw = root / place / archive, root / place / archive.removesuffix(".gz")
        if not path.exists() and raw.exists():
            content[raw.name] = _read(raw, None)
            continue
        if not path.exists():
            _get(name, [mirror + archive for mirror in official.mirrors], path, md5, download, place, root)
        content[raw.name] = gzip.decompress(_read(path, md5))
    parts = []
    for part in ("train", "t10k"):
        images = _idx(content[f"{part}-images-idx3-ubyte"], 3, root / place / f"{part}-images-idx3-ubyte")
        labels = _idx(content[f"{part}-labels-idx1-ubyte"], 1, root / place / f"{part}-labels-idx1-ubyte")
        parts.append(_split(images[:, None], labels, len(official.classes), f"{root / place}/{part}-*"))
    return Official(parts[0], parts[1], tuple(official.classes))


def cifar(name: str, root: Path, download: bool) -> Official:
    """`cifar10` or `cifar100`: the python batches in root/cifar-10-batches-py or root/cifar-100-python."""
    from torchvision import datasets

    official = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / official.base_folder
    table = dict(official.train_list + official.test_list) | {official.meta["filename"]: official.meta["md5"]}
    if not all((folder / file).exists() for file in table):
        archive = root / official.filename
        if not archive.exists():
            _get(name, [official.url], archive, official.tgz_md5, download, official.base_folder, root)
        content = io.BytesIO(_read(archive, official.tgz_md5))
        try:
            unpack(content, folder, {f"{official.base_folder}/{file}" for file in table})
        except OSError as problem:
            raise MachineError(f"could not unpack {archive} into {folder}: {problem.strerror or problem}") from None
    classes = tuple(_batch(folder / official.meta["filename"], official.meta["md5"])[official.meta["key"]])
    parts = []
    for files in (official.train_list, official.test_list):
        batches = [_batch(folder / file, md5) for file, md5 in files]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batch["labels"] if "labels" in batch else batch["fine_labels"] for batch in batches])
        parts.append(_split(images, labels, len(classes), str(folder)))
    return Official(parts[0], parts[1], classes)


def _get(name: str, urls: list[str], path: Path, md5: str, download: bool, place: str, root: Path) -> None:
    if not download:
        raise DataError(f"dataset.name={name}: no {place} in {root}; put it there, or set dataset.download=true or another dataset.root")
    try:
        fetch(urls, path, md5)
    except (OSError, ValueError, HTTPException) as problem:
        reason = " ".join(str(getattr(problem, "reason", None) or problem).split()) or type(problem).__name__
        raise MachineError(f"could not download {name} ({reason}): put {place} in {root}, or use dataset=image_folder") from None


def _read(path: Path, md5: str | None) -> bytes:
    """The bytes of a file, whose published MD5 is checked on these very bytes."""
    try:
        content = read_bytes(path)
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror or problem}") from None
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path}: not the published file (its MD5 is not {md5}); delete it, and it is fetched again")
    return content


def _idx(content: bytes, dimensions: int, path: Path) -> np.ndarray:
    """An idx file: two zero bytes, type, number of dimensions, big-endian sizes, values."""
    header = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:header], dtype=">u4").tolist()
    whole_file = len(sizes) == dimensions and len(content) == header + math.prod(sizes)
    if content[:4] != bytes((0, 0, IDX_BYTES, dimensions)) or not whole_file:
        raise DataError(f"{path}: not a whole idx file of {dimensions} dimensions; delete it, and it is fetched again")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes)


class _Arrays(pickle.Unpickler):
    """Reads plain values and byte arrays, as the CIFAR files hold them, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        # The files name numpy's old places, which newer numpy moved and will drop: the answers here do not look there.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: np.ndarray(0, np.uint8)
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: np.dtype({"u1": np.uint8}[code], copy=True)  # a copy: unpickling writes into it
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def _batch(path: Path, md5: str) -> dict[str, Any]:
    # MD5 first, on the bytes that are then read. MD5 can be forged by whoever makes both files, so the reader runs no code either.
    content = _read(path, md5)
    try:
        return _Arrays(io.BytesIO(content), encoding="latin1").load()
    except Exception as problem:  # a broken pickle raises nearly anything
        raise DataError(f"{path}: not a CIFAR batch ({problem}); delete it, and it is fetched again") from None


def _split(images: np.ndarray, labels: Any, classes: int, place: str) -> Split:
    """Gray [N, 1, H, W] or colour [N, 3, H, W] pixels with labels that are checked to name a class."""
    targets = torch.from_numpy(np.array(labels, dtype=np.int64))
    if len(targets) != len(images) or len(targets) == 0 or targets.min() < 0 or targets.max() >= classes:
        raise DataError(f"{place}: {len(images)} images and {len(targets)} labels do not make a set of {classes} classes")
    pixels = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    return whole(torch.from_numpy(np.ascontiguousarray(pixels)), targets)
