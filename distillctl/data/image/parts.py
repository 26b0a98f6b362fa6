"""The parts of a set out of folders: which files are for training, validation and test, by which classes. Nothing is decoded but what may be bad."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from distillctl.config import ImageSetConfig
from distillctl.data.cutting import divide
from distillctl.data.image import folder
from distillctl.data.image.decoding import checked
from distillctl.data.image.files import BadImage, shown
from distillctl.data.split import Excused, Source, Split, joined, one_form, unlabelled, whole
from distillctl.errors import DataError

MOST_BAD = 0.1
WAY_OUT = "mend or remove it, or set dataset.on_bad_image=skip"

STAND_IN = "in training the next image of its class stands in for it, and nothing is measured by it"
NONE_EXCUSED = Excused()


@dataclass(frozen=True)
class KeptPlaces:
    """Which files keep their places though they are bad or gone: `files`, and with `others` all that are bad. absent: those that were found so."""

    files: frozenset[Path] = frozenset()
    others: bool = False
    absent: set[Path] = field(default_factory=set)


@dataclass(frozen=True)
class Parts:
    """train, val, test: files. sizes: bytes of each file. notes: lines to show the user."""

    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    sizes: Mapping[Path, int]
    notes: list[str]
    listed: tuple[Split, Split, Split]  # the same splits with the bad files whose places are kept
    source: Source | None = None


def to_train(
    config: ImageSetConfig, root: Path, said: str, class_names: Sequence[str] | None, excused: Excused = NONE_EXCUSED, least: int = 2
) -> Parts:
    """Training images and what they are measured by. `class_names`: those of a teacher, for images without labels, which may have no others.

    least: how many classes there have to be.
    """
    place = folder.entered(root, said)
    gone = [root / name for name in excused.names]
    if config.labels:
        found = folder.layout(place, said)
        if not {"train", "all"} & found.keys():
            raise DataError(f"{said}: has {_folders(found)} but no train folder; expected {shown(place)}/train/CLASS/*.jpg")
        listings = {part: folder.listing(path, place, said, gone) for part, path in found.items()}
        classes = _names_of_all(listings, least)
    else:
        found = folder.layout_without_labels(place, said)
        listings = {part: _listing_without_labels(part, found, place, said, gone) for part in found}
        classes = _names_without_labels(listings, class_names, said)
    notes = _scan_notes(listings, place, found, root)
    absent: set[Path] = set()
    keeps = KeptPlaces(frozenset(gone), excused.others, absent)
    sources = _sources(listings, classes, config, notes, keeps)
    pool, val, test = sources.get("train", sources.get("all")), sources.get("val"), sources.get("test")
    assert pool is not None
    if test is None:  # as ImageNet is published: its val folder is what results are reported on
        val, test = None, val
        if test is not None:
            notes.append(f"{found['val'].name}/ is the test split; a validation split is cut out of {found['train'].name}/")
    source = Source(len(pool), tuple(name for name, part in (("val", val), ("test", test)) if part is None))
    listed = divide(pool, val, test, classes, config)
    train, val, test = (with_stand_ins(listed[0], absent), *(part.take(_present(part, absent)) for part in listed[1:]))
    return Parts(classes, train, val, test, _sizes(listings), notes, listed, source)


def to_measure(config: ImageSetConfig, root: Path, said: str, class_names: Sequence[str] | None) -> Parts:
    """All images of a folder as its test split, whatever parts it has and however few its classes. `class_names`: those that a model knows."""
    place = folder.entered(root, said, class_names or ())
    found = folder.layout(place, said)
    listings = {part: folder.listing(path, place, said) for part, path in found.items()}
    classes = tuple(sorted({name for listing in listings.values() for name in listing.classes}))
    notes = _scan_notes(listings, place, found, root)
    files = joined(list(_sources(listings, classes, config, notes, KeptPlaces()).values()))
    together = whole(files.inputs, files.targets)
    none = together.take([])
    return Parts(classes, none, none, together, _sizes(listings), notes, (none, none, together))


def has_training_images(root: Path, said: str) -> bool:
    return "train" in folder.layout(folder.entered(root, said), said)


def _sources(
    listings: Mapping[str, folder.Listing], classes: Sequence[str], config: ImageSetConfig, notes: list[str], keeps: KeptPlaces
) -> dict[str, Split]:
    """The files of each part with their targets, without those that cannot be read, and notes on classes that a part lacks."""
    sources = {}
    for part, listing in listings.items():
        sources[part] = _without_bad(_source(listing, classes), listing, config, notes, keeps)
        counts = sources[part].sizes(len(classes))
        absent = [name for name, count in zip(classes, counts, strict=True) if count == 0] if listing.classes else []
        if bare := [name for name in absent if name in listing.classes and part in ("train", "all")]:
            raise DataError(f"{shown(listing.folder)}: no readable images of {_some(bare)}")
        if absent and part != "all":
            notes.append(f"{part} has no images of: {_some(absent)}")
    return sources


def _names_of_all(listings: Mapping[str, folder.Listing], least: int) -> tuple[str, ...]:
    """The class names of the training images, or an error where there is one only, or where another part has others."""
    first = listings[next(iter(listings))]
    if len(first.classes) < least:
        raise DataError(f"{shown(first.folder)}: only one class, {shown(first.classes[0])}; a classifier needs two or more")
    for listing in listings.values():
        if extra := sorted(set(listing.classes) - set(first.classes)):
            raise DataError(f"{shown(listing.folder)} has classes that {shown(first.folder)} lacks: {_some(extra)}")
    return first.classes


def _listing_without_labels(part: str, found: Mapping[str, Path], root: Path, said: str, gone: Collection[Path]) -> folder.Listing:
    """Validation and test images keep the labels that they have: folders in val/ and test/ are classes."""
    if part != "train" and folder.has_classes(found[part]):
        return folder.listing(found[part], root, said, gone)
    return folder.listing_without_labels(found[part], [place for other, place in found.items() if other != part], said, gone)


def _names_without_labels(listings: Mapping[str, folder.Listing], class_names: Sequence[str] | None, said: str) -> tuple[str, ...]:
    """The teacher's classes where the folders that there are have these names, else the folders' own."""
    own = tuple(sorted({name for listing in listings.values() for name in listing.classes}))
    if class_names is not None and set(own) <= set(map(one_form, class_names)):
        return tuple(map(one_form, class_names))
    if len(own) < 2:
        raise DataError(
            f"{said}: nothing names the classes of images without labels; give a teacher with a record (teacher.checkpoint=<run folder>), "
            "or some labelled images in test/CLASS"
        )
    return own


def _source(listing: folder.Listing, classes: Sequence[str]) -> Split:
    if not listing.classes:
        return unlabelled(list(listing.files))
    number = {name: target for target, name in enumerate(classes)}
    return whole(list(listing.files), torch.tensor([number[label] for label in listing.labels], dtype=torch.int64))


def _without_bad(source: Split, listing: folder.Listing, config: ImageSetConfig, notes: list[str], keeps: KeptPlaces) -> Split:
    """`source` without the files that cannot be read, or an error that names one, as dataset.on_bad_image says. Some keep their places."""
    once = [file for file in listing.files if file in keeps.files]
    removed = {file for file in once if not os.path.lexists(file)}
    if config.on_bad_image == "error":
        broken = {listing.files[position]: reason for position, reason in listing.broken.items()}
        refuse_bad({file: f"{shown(file)}: {reason}" for file, reason in broken.items() if file not in removed})
        refuse_bad(checked([file for file in once if file not in removed], config.max_pixels))
        keeps.absent.update(removed)
        notes.extend(f"{shown(file)} was removed; {STAND_IN}" for file in sorted(removed))
        return source
    bad = checked(listing.files, config.max_pixels)
    if not bad:
        return source
    first, total = next(iter(bad.values())), len(source)
    if len(bad) > MOST_BAD * total:
        raise DataError(f"dataset.on_bad_image=skip: {len(bad)} of {total} images are bad, more than {MOST_BAD:.0%}; the first is {first}")
    notes.append(f"{len(bad)} of {total} images in {shown(listing.folder)} cannot be read and were left out:")
    notes.extend(f"  {message}" for message in list(bad.values())[:10])
    keeps.absent.update(kept := {file for file in bad if keeps.others or file in keeps.files})
    if kept:
        notes.append(f"  {STAND_IN}")
    return source.take([position for position, file in enumerate(listing.files) if file not in bad or file in kept])


def with_stand_ins(train: Split, absent: Collection[Path]) -> Split:
    """A training split in which the next image of the same class stands where one is absent, so that all others keep their places."""
    if not absent:
        return train
    assert isinstance(train.inputs, list)
    files, targets = list(train.inputs), train.targets.tolist()
    for position, file in enumerate(train.inputs):
        if file in absent:
            others = [*range(position + 1, len(files)), *range(position)]
            alike = (train.inputs[other] for other in others if targets[other] == targets[position] and train.inputs[other] not in absent)
            files[position] = next(alike, file)
            if files[position] == file:
                raise DataError(f"{shown(file)}: no other training image of its class can stand in for it; put it back, or start a new run")
    return replace(train, inputs=files)


def _present(part: Split, absent: Collection[Path]) -> list[int]:
    assert isinstance(part.inputs, list)
    return [position for position, file in enumerate(part.inputs) if file not in absent]


def refuse_bad(bad: Mapping[Path, str]) -> None:
    """Raises BadImage that names the first of some bad images, where there are any."""
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise BadImage(f"{next(iter(bad.values()))}{more}; {WAY_OUT}")


def _sizes(listings: Mapping[str, folder.Listing]) -> dict[Path, int]:
    return {path: size for listing in listings.values() for path, size in zip(listing.files, listing.sizes, strict=True)}


def _scan_notes(listings: Mapping[str, folder.Listing], place: Path, found: Mapping[str, Path], root: Path) -> list[str]:
    seen = Counter[str]()
    for listing in listings.values():
        seen.update(listing.seen)
    inside = [f"read: {shown(place)}, all that {shown(root)} holds"] if place != root else []
    notes = inside + [f"{count} {what}" for what, count in sorted(seen.items()) if count]
    if unused := folder.unused(place, found):
        notes.append(f"folders that were not read: {_some(unused)}")
    return notes


def _folders(found: Mapping[str, Path]) -> str:
    return " and ".join(shown(path.name) for path in found.values())


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
