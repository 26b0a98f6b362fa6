"""Load a set of texts, split into train, validation and test."""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillctl.config import TextSetConfig, check_named
from distillctl.data.cutting import divide
from distillctl.data.forms import one_form
from distillctl.data.names import is_hidden, part_of
from distillctl.data.split import UNLABELLED, DataSet, Source, Split
from distillctl.data.text import docstrings, groups, hub
from distillctl.data.text.columns import known_names
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.gather import Gathered, gather
from distillctl.data.text.table import SUFFIXES, Table, open_table
from distillctl.errors import ConfigError, DataError
from distillctl.paths import as_path

IDS = ("id", "idx", "guid", "uid")
SHARD = re.compile(r"[-_.]\d+[-_]of[-_]\d+$")
Opened = dict[str, list[tuple[str, Table]]]  # tables of each part, with what they are called in messages


@dataclass(frozen=True)
class TextSet(DataSet):
    """inputs of its splits are rows of the corpus, int64 [N]. told: class numbers of the training source by index, UNLABELLED where the files say none:
    of a set whose labels nobody looks at what a teacher can be held against."""

    corpus: Corpus = field(repr=False, compare=False)
    told: torch.Tensor | None = field(default=None, repr=False, compare=False, kw_only=True)

    def names_of(self, split: Split) -> Sequence[str] | None:
        """Of a column of ids, where there is one."""
        column = next((name for name in self.corpus.columns if name.casefold() in IDS), None)
        rows: Any = split.inputs
        return None if column is None else [self.corpus.columns[column][row] for row in rows.tolist()]


def load(config: TextSetConfig, teacher_classes: Sequence[str] | None = None) -> TextSet:
    """The set that `config` describes. The same files and config give the same splits, everywhere.

    teacher_classes: names of the classes where texts without labels have none of their own.
    """
    check_named(config)
    return assembled(gather(opened(config), config), config, teacher_classes)


def load_to_measure(config: TextSetConfig, class_names: Sequence[str] | None, learned: Mapping[str, Any] | None) -> TextSet:
    """The same for a model that is ready: a file or a folder that has no training part, and is not what the model learned from, is measured whole."""
    check_named(config)
    before = learned.get("root") if learned else None
    same = isinstance(before, str) and config.root is not None and os.path.realpath(before) == os.path.realpath(as_path(config.root))
    parts = opened(config)
    if same or set(parts) != {"all"} and "train" in parts or config.name != "text" or config.hub is not None:
        return assembled(gather(parts, config), config, class_names)
    found = gather(parts, config)
    classes = tuple(found.classes or class_names or ())
    if not classes:
        raise DataError(f"{found.where}: it has no labels, and nothing says which classes there are")
    everything = replace_targets(found, classes)
    whole = everything["all"] if "all" in everything else everything.get("test", everything.get("val"))
    assert whole is not None
    return finished(found, classes, (whole.take([]), whole.take([]), whole), config, [])


def opened(config: TextSetConfig) -> Opened:
    """The tables of each part: train, val, test, or all where one file is to be cut."""
    if config.name == "docstrings":
        return {"all": [("docstrings", docstrings.table())]}
    if config.hub is not None:
        return hub.tables(config.hub, config.hub_config)
    if not config.root:
        raise ConfigError("dataset.root is not set: pass dataset.root=<file or folder of texts>, or dataset.hub=<a set on the hub>")
    known = known_names(config)

    def table(file: Path) -> tuple[str, Table]:
        return str(file), open_table(file, known, config.delimiter, config.encoding)

    return {part: [table(file) for file in files] for part, files in layout(as_path(config.root), config.root).items()}


def layout(root: Path, said: str) -> dict[str, list[Path]]:
    """Which files are which part. Raises DataError."""
    if root.is_file():
        return {"all": [root]}
    if not root.is_dir():
        raise DataError(f"dataset.root={said}: no such file or folder")
    files = sorted(file for file in root.iterdir() if file.suffix.lower() in SUFFIXES and not is_hidden(file.name))
    found: dict[str, list[Path]] = {}
    for file in files:
        if (meant := part_of(SHARD.sub("", file.stem))) is not None:
            found.setdefault(meant[0], []).append(file)
    for part, those in found.items():
        if len(those) > 1 and not all(SHARD.search(file.stem) for file in those):
            raise DataError(f"dataset.root={said}: {those[0].name} and {those[1].name} are both {part} files; remove one, or name one file")
    if found:
        return found
    if len(files) == 1:
        return {"all": files}
    if not files:
        raise DataError(f"dataset.root={said}: no files of texts in this folder; they are {', '.join(SUFFIXES)}")
    raise DataError(
        f"dataset.root={said}: which of {files[0].name}, {files[1].name} ... is for training? Name them train, val and test, or name one file"
    )


def assembled(found: Gathered, config: TextSetConfig, class_names: Sequence[str] | None) -> TextSet:
    """Splits of what was read."""
    classes = classes_of(found, config, class_names)
    parts = replace_targets(found, classes)
    notes = []
    val, test = parts.get("val"), parts.get("test")
    if test is not None and not test.labelled and val is not None and val.labelled:
        notes.append("the test texts have no labels: those of validation are the test, and validation texts are held out of training")
        val, test = None, val
    elif test is None and val is not None:
        notes.append("there is no test file: that of validation is the test, and validation texts are held out of training")
        val, test = None, val
    pool = parts.get("train", parts.get("all"))
    if pool is None:
        raise DataError(f"{found.where}: there is no file to train on; name one train.csv, or the like")
    if config.labels and not pool.labelled:
        without = int((pool.targets == UNLABELLED).sum())
        raise DataError(
            f"{found.where}: {without:,} of {len(pool):,} training texts have no label; dataset.labels=false looks at none, or leave them out"
        )
    own = groups_of(found, pool, config)
    source = Source(int(pool.index.max()) + 1, tuple(name for name, part in (("val", val), ("test", test)) if part is None))
    train, val, test = divide(pool, val, test, classes, config, own, "text")
    told = torch.full((source.rows,), UNLABELLED)
    told[pool.index] = pool.targets
    return replace(finished(found, classes, (train, val, test), config, notes, source), told=told)


def classes_of(found: Gathered, config: TextSetConfig, class_names: Sequence[str] | None) -> tuple[str, ...]:
    classes = tuple(found.classes)
    if not classes and not config.labels and config.class_names:
        return tuple(config.class_names)
    if not classes:
        if config.labels:
            raise DataError(
                f"{found.where}: no labels (its columns: {', '.join(found.columns)}); set dataset.label=<column>, or dataset.labels=false"
            )
        if class_names is None:
            raise DataError(
                f"{found.where}: it has no labels, and no teacher with a record says which classes there are; pass teacher.checkpoint=<run>"
            )
        return tuple(class_names)
    if class_names is not None and not config.labels:
        return tuple(class_names)
    if len(classes) < 2:
        raise DataError(f"{found.where}: all texts are of one class, {classes[0]!r}; there is nothing to tell apart")
    return classes


def replace_targets(found: Gathered, classes: Sequence[str]) -> dict[str, Split]:
    """The parts with numbers for labels."""
    number = {one_form(name): place for place, name in enumerate(classes)}
    table = torch.tensor([number.get(one_form(name), UNLABELLED) for name in found.classes] + [UNLABELLED])
    return {
        part: Split(
            numbers_of(each.rows),
            table[numbers_of(each.labels)],
            numbers_of(each.index),
        )
        for part, each in found.parts.items()
    }


def numbers_of(values: array[int]) -> torch.Tensor:
    """int64, in the memory of the array itself."""
    return torch.from_numpy(np.frombuffer(values, np.int64)) if values else torch.empty(0, dtype=torch.int64)


def groups_of(found: Gathered, pool: Split, config: TextSetConfig) -> torch.Tensor | None:
    """Of each sample of the pool by its index; None where each stands alone."""
    if config.groups is None:
        return None
    rows, corpus = pool.inputs.tolist(), found.corpus  # type: ignore[union-attr]
    if config.groups == "contained":
        own = groups.by_containment(corpus.words_of("text", row) for row in rows)
    elif config.groups in corpus.columns or config.groups in found.columns:
        own = groups.by_value(corpus.words_of(config.groups, row) for row in rows)
    else:
        raise DataError(f"dataset.groups={config.groups}: {found.where} has no such column ({', '.join(found.columns)}); or take contained")
    result = torch.full((int(pool.index.max()) + 1,), groups.NOWHERE)
    result[pool.index] = own
    return result


def finished(
    found: Gathered,
    classes: Sequence[str],
    splits: tuple[Split, Split, Split],
    config: TextSetConfig,
    notes: list[str],
    source: Source | None = None,
) -> TextSet:
    corpus = found.corpus
    splits = (splits[0], by_length(splits[1], corpus), by_length(splits[2], corpus))
    corpus.train = splits[0].inputs  # type: ignore[assignment]
    corpus.targets, corpus.classes = splits[0].targets, tuple(classes)
    digest = hashlib.sha256(ascii((config.name, tuple(classes), corpus.text, corpus.pair)).encode())
    for part in splits:
        rows = part.inputs.numpy()  # type: ignore[union-attr]
        digest.update(
            corpus.marks[rows].astype("<i8").tobytes()
            + part.targets.numpy().astype("<i8").tobytes()
            + part.index.numpy().astype("<i8").tobytes()
        )
    said = [*found.notes, *notes, *duplicates(corpus, splits)]
    return TextSet(config.name, tuple(classes), *splits, digest.hexdigest(), said, corpus, source=source)


def by_length(split: Split, corpus: Corpus) -> Split:
    """The shortest first, so that little is filled up where they are measured."""
    rows: Any = split.inputs
    return split.take(torch.from_numpy(corpus.sizes)[rows].argsort(stable=True).tolist())


def duplicates(corpus: Corpus, splits: tuple[Split, Split, Split]) -> list[str]:
    """Notes on texts that occur in two splits."""
    train, val, test = (corpus.word_marks(part.inputs) for part in splits)  # type: ignore[arg-type]
    notes = []
    if count := int(np.isin(val, train).sum()):
        notes.append(f"{count:,} of {len(val):,} validation texts are in the training split too; dataset.groups=contained keeps them apart")
    if count := int(np.isin(test, np.concatenate([train, val])).sum()):
        notes.append(f"{count:,} of {len(test):,} test texts are in the training or validation split too")
    return notes
