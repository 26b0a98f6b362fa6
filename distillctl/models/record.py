"""What is known of a shipped model, as it lies beside its weights in JSON; other people's files are believed in nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distillctl.errors import CheckpointError
from distillctl.models.edits import Edit, change_of
from distillctl.state import NewerFormat

FORMAT_VERSION = 1
SOURCES = ("cifar", "torchvision", "timm", "own")
LARGEST_SIZE = 2**16  # px
DEEPEST = 16  # levels of lists and mappings in what a record leaves open
REQUIRED: Any = object()


class Malformed(CheckpointError):
    """An entry is missing or of another type than it has to be."""


@dataclass(frozen=True)
class Architecture:
    """What a net is built from; `models.net.Net` says what each entry means."""

    source: str
    name: str
    stem: str = "large"
    args: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    image_size: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "name": self.name,
            "stem": self.stem,
            "args": dict(self.args),
            "edits": [list(edit) for edit in self.edits],
            "image_size": self.image_size,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], inside: str = "architecture.") -> Architecture:
        source = text(content, "source", inside=inside)
        if source not in SOURCES:
            raise Malformed(f"{inside}source={source[:60]!r} is none of {', '.join(SOURCES)}")
        return cls(
            source,
            text(content, "name", inside=inside),
            text(content, "stem", "large", inside),
            open_mapping(content, "args", {}, inside),
            edits_of(content, inside),
            size(content, "image_size", None, inside),
        )


@dataclass(frozen=True)
class Parents:
    """What a model was made from: the mark of its teacher's weights, the checksum of those that it began with."""

    teacher: str | None = None
    start: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"teacher": self.teacher, "start": self.start}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], inside: str = "parents.") -> Parents:
        return cls(text(content, "teacher", None, inside), text(content, "start", None, inside))


@dataclass(frozen=True)
class Record:
    """A shipped model. preprocessing: what the kind of its inputs says of them. dataset: where it learned, as a config."""

    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    role: str = "student"
    stage: str | None = None
    dataset: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    epoch: int | None = None
    epochs: int | None = None
    seed: int | None = None
    parents: Parents = Parents()
    versions: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""  # of the file of weights; empty until that is written

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "role": self.role,
            "stage": self.stage,
            "architecture": self.architecture.to_json(),
            "classes": list(self.classes),
            "preprocessing": dict(self.preprocessing),
            "dataset": dict(self.dataset) if self.dataset is not None else None,
            "metrics": dict(self.metrics),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "seed": self.seed,
            "parents": self.parents.to_json(),
            "versions": dict(self.versions),
            "sha256": self.sha256,
        }

    def essence(self) -> dict[str, Any]:
        """What is needed to use the weights: it rides in their file too. Nothing in it tells one run from another that trains the same."""
        whole = self.to_json()
        return {name: whole[name] for name in ("format_version", "role", "architecture", "classes", "preprocessing")}

    @classmethod
    def from_json(cls, content: Any) -> Record:
        """Raises Malformed that names the entry, and NewerFormat. Entries that are not needed to use the weights may be missing."""
        if not isinstance(content, Mapping):
            raise Malformed("it has to be a mapping")
        check_format(content)
        return cls(
            architecture=Architecture.from_json(mapping(content, "architecture")),
            classes=classes_of(content),
            preprocessing=open_mapping(content, "preprocessing"),
            role=text(content, "role", "student"),
            stage=text(content, "stage", None),
            dataset=open_mapping(content, "dataset", None),
            metrics=open_mapping(content, "metrics", {}),
            epoch=integer(content, "epoch", None),
            epochs=integer(content, "epochs", None),
            seed=integer(content, "seed", None),
            parents=Parents.from_json(mapping(content, "parents", {})),
            versions=open_mapping(content, "versions", {}),
            sha256=text(content, "sha256", ""),
        )


def check_format(content: Mapping[str, Any]) -> None:
    """Whether this distillctl can read it at all: what a later one means by an entry, nobody knows here."""
    version = integer(content, "format_version", FORMAT_VERSION)
    if not 1 <= version <= 9999:
        raise Malformed("format_version has to be from 1 to 9999")
    if version > FORMAT_VERSION:
        versions = content.get("versions")
        writer = versions.get("distillctl") if isinstance(versions, Mapping) else None
        known = f"distillctl {writer[:40]}" if isinstance(writer, str) and writer.isprintable() else "a newer distillctl"
        raise NewerFormat(f"was written by {known} in format {version}, this one reads format {FORMAT_VERSION}; upgrade")


def classes_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    names = entry(content, "classes", list, "a list of names")
    if not names or not all(isinstance(name, str) for name in names):
        raise Malformed("classes has to be a list of names")
    return tuple(names)


def edits_of(content: Mapping[str, Any], inside: str) -> tuple[Edit, ...]:
    edits = entry(content, "edits", list, "a list of pairs of texts", [], inside)
    for edit in edits:
        if not isinstance(edit, (list, tuple)) or len(edit) != 2 or not all(isinstance(part, str) for part in edit):
            raise Malformed(f"{inside}edits has to be a list of pairs of texts")
        try:
            change_of(edit[1])
        except CheckpointError as error:
            raise Malformed(f"{inside}edits: {error}") from None
    return tuple(Edit(*edit) for edit in edits)


def text(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    return entry(content, key, str, "a text", default, inside)


def integer(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    return entry(content, key, int, "a whole number", default, inside)


def size(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    found = integer(content, key, default, inside)
    if found is not None and not 1 <= found <= LARGEST_SIZE:
        raise Malformed(f"{inside}{key} has to be from 1 to {LARGEST_SIZE} px")
    return found


def numbers(content: Mapping[str, Any], key: str, count: int, inside: str = "") -> tuple[float, ...]:
    what = f"a list of {count} numbers"
    found = entry(content, key, list, what, inside=inside)
    if len(found) != count or not all(type(number) in (int, float) and abs(number) < 1e30 for number in found):
        raise Malformed(f"{inside}{key} has to be {what}")
    return tuple(float(number) for number in found)


def mapping(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    return entry(content, key, Mapping, "a mapping", default, inside)


def open_mapping(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    """One whose entries are somebody else's."""
    found = mapping(content, key, default, inside)
    if found is not None and not plain(found, DEEPEST):
        raise Malformed(f"{inside}{key} is nested too deeply, or holds a number that is not finite")
    return found


def entry(content: Mapping[str, Any], key: str, kind: Any, what: str, default: Any = REQUIRED, inside: str = "") -> Any:
    """One entry, of the kind that it has to be; null where its default is null."""
    found = content.get(key, default)
    if found is REQUIRED:
        raise Malformed(f"{inside}{key} is missing")
    if (found is None and default is None) or (isinstance(found, kind) and not isinstance(found, bool)):
        return found
    raise Malformed(f"{inside}{key} has to be {what}")


def plain(value: Any, depth: int) -> bool:
    """Whether a value is of finite numbers, and no deeper than so."""
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
        return depth > 0 and all(plain(item, depth - 1) for item in items)
    return not isinstance(value, float) or math.isfinite(value)
