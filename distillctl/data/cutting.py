"""Cut a set into stratified parts, or by groups that stay whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distillctl.config import DatasetConfig
from distillctl.data.split import Split
from distillctl.errors import DataError


def cut(split: Split, count: int, classes: int, key: str, least: int = 1, left: int = 1) -> tuple[Split, Split]:
    """What is left, and a part of about `count` samples that has `least` of each class or more and leaves `left` of each or more.

    The classes share `count` in proportion to their sizes; `key` decides which samples go. A class that has no more than `least`
    samples goes whole where `left` is 0. The count is exact where the bounds allow it.
    """
    sizes = split.sizes(classes)
    high = [max(n - left, 0) for n in sizes]
    low = [min(least, h) for h in high]
    counts = shares(sizes, min(max(count, sum(low)), sum(high)), low, high)
    draws = np.fromiter((_draw(key, number) for number in split.index.numpy()), np.uint64, len(split))
    # by class, and in a class by what was drawn: a class's share are the first of its run
    order = np.lexsort((draws, split.strata.numpy()))
    taken = np.zeros(len(split), np.bool_)
    begin = 0
    for size, wanted in zip(sizes, counts, strict=True):
        taken[order[begin : begin + wanted]] = True
        begin += size
    return parted(split, taken)


def parted(split: Split, taken: NDArray[np.bool_]) -> tuple[Split, Split]:
    """What is left, and what is taken, each in its own order."""
    return split.take(np.flatnonzero(~taken)), split.take(np.flatnonzero(taken))


def few(split: Split, shots: int, classes: Sequence[str], key: str, noun: str = "image") -> Split:
    """`shots` samples of each class; `key` decides which, and what fewer shots take is among what more take.

    Raises DataError with the class that has fewer.
    """
    for name, size in zip(classes, split.sizes(len(classes)), strict=True):
        if size < shots:
            raise DataError(
                f"dataset.shots={shots}: class {name} has {size} training {noun}{'s' * (size != 1)}; lower it, or add {noun}s of that class"
            )
    return cut(split, shots * len(classes), len(classes), key, least=shots, left=0)[1]


def cut_groups(split: Split, count: int, groups: Tensor, key: str) -> tuple[Split, Split]:
    """What is left, and a part of about `count` samples made of whole groups; `key` decides which. groups: int64, of each sample by its index,
    below 0 of those that stay. Raises DataError where nothing would be left, or nothing be cut out."""
    own = groups[split.index].numpy()
    names, sizes = np.unique(own[own >= 0], return_counts=True)
    chosen = []
    taken = 0
    for place in np.argsort(np.fromiter((_draw(key, name) for name in names), np.uint64, len(names)), kind="stable"):
        size = int(sizes[place])
        if abs(taken + size - count) < abs(taken - count) and taken + size < len(split):
            chosen.append(names[place])
            taken += size
    if not chosen:
        raise DataError(
            f"dataset.groups: of {len(split):,} samples in {len(names):,} groups none can be held out whole; give a validation and a test file, or leave it out"
        )
    return parted(split, np.isin(own, chosen))


def divide(
    pool: Split,
    val: Split | None,
    test: Split | None,
    classes: tuple[str, ...],
    config: DatasetConfig,
    groups: Tensor | None = None,
    noun: str = "image",
) -> tuple[Split, Split, Split]:
    """Train, validation and test, as a config of any kind says. What is not given is cut out of `pool`, each class in proportion, or by groups whole.
    noun: what a sample is called in messages.

    The labels of validation samples that were cut out are forgotten where training is to do with few labels or none.
    """

    def held_out(pool: Split, share: float, key: str, left: int) -> tuple[Split, Split]:
        if groups is not None:
            return cut_groups(pool, round(share * len(pool)), groups, key)
        return cut(pool, round(share * len(pool)), count, key, left=left)

    count = len(classes) if pool.labelled else 1
    need = 1 + (val is None) + (test is None)
    for name, size in zip(classes[:count], pool.sizes(count), strict=True):
        if size < need:
            who, way_out = (f"class {name} has", "add some or remove the class") if pool.labelled else ("there are", "add some")
            into = f"to be split into {need} parts" if need > 1 else "to train on"
            raise DataError(f"{who} {size} {noun}{'s' * (size != 1)} {into}; {way_out}")
    if test is None:  # the key is fixed: a test split that follows a seed would be another one for everyone
        pool, test = held_out(pool, config.test_fraction, "test", need - 1)
    test = _part_of_test(test, classes, config)
    pool, val = _subset_of(pool, val, count, config)
    if val is None:
        pool, val = held_out(pool, config.val_fraction, f"val {config.split_seed}", 1)
        if config.shots is not None or not config.labels:
            val = val.without_labels()
    if config.shots is not None:
        pool = few(pool, config.shots, classes, f"shots {config.split_seed}", noun)
    return (pool if config.labels else pool.without_labels()), val, test


def _part_of_test(test: Split, classes: Sequence[str], config: DatasetConfig) -> Split:
    """`dataset.test_subset` samples, each class in proportion; the same ones for everyone."""
    wanted, count = config.test_subset, len(classes) if test.labelled else 1
    if wanted is None or wanted == len(test):
        return test
    present = sum(size > 0 for size in test.sizes(count))
    if not present <= wanted <= len(test):
        raise DataError(f"dataset.test_subset={wanted}: must be from {present} (one of each class) to {len(test)}, what the test split has")
    return cut(test, wanted, count, "test_subset", left=0)[1]


def _subset_of(pool: Split, val: Split | None, count: int, config: DatasetConfig) -> tuple[Split, Split | None]:
    """`dataset.subset` images out of train and validation together, each class in proportion."""
    wanted, key = config.subset, f"subset {config.split_seed}"
    there = len(pool) + (len(val) if val else 0)
    if wanted is None or wanted == there:
        return pool, val
    if not 2 * count <= wanted <= there:
        least = f"{2 * count} (two of each of {count} classes)" if count > 1 else "2"
        raise DataError(f"dataset.subset={wanted}: must be from {least} to {there}, what train and validation have")
    if val is None:
        return cut(pool, wanted, count, key, least=2, left=0)[1], None
    present = sum(size > 0 for size in val.sizes(count))
    of_val = min(max(round(wanted * len(val) / there), present, wanted - len(pool)), len(val), wanted - count)
    return cut(pool, wanted - of_val, count, key, left=0)[1], cut(val, of_val, count, key, left=0)[1]


def shares(sizes: Sequence[int], total: int, low: Sequence[int], high: Sequence[int]) -> list[int]:
    """Divide `total` in proportion to `sizes`, within bounds, by largest remainders."""
    assert sum(low) <= total <= sum(high)
    whole_size = max(sum(sizes), 1)
    counts = [min(max(total * n // whole_size, at_least), at_most) for n, at_least, at_most in zip(sizes, low, high, strict=True)]
    while missing := total - sum(counts):
        step = 1 if missing > 0 else -1
        bound = high if step > 0 else low
        able = [c for c in range(len(sizes)) if counts[c] != bound[c]]
        able.sort(key=lambda c: (step * (counts[c] * whole_size - total * sizes[c]), c))
        for c in able[: abs(missing)]:
            counts[c] += step
    return counts


def _draw(key: str, index: int | np.integer[Any]) -> int:
    # A hash and not a random generator: the fixed test split must be the same under every version of every library.
    return int.from_bytes(hashlib.sha256(f"{key} {index}".encode()).digest()[:8], "big")
