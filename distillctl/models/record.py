"""What is known of a shipped model, as it lies beside its weights in JSON; other people's files are believed in nothing. No torch here."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from distillctl.entries import LONGEST, REQUIRED, Malformed, entry, integer, mapping, open_mapping, text, texts
from distillctl.errors import CheckpointError
from distillctl.state import NewerFormat

if TYPE_CHECKING:
    from distillctl.models.edits import Edit

FORMAT_VERSION = 1
SOURCES = ("cifar", "torchvision", "timm", "text", "transformers", "own")
STEMS = ("small", "large")
LARGEST_SIZE = 2**13  # px
LARGEST_ARGUMENT = 2**20
MOST_EDITS = 1000
PREPROCESS = ("inside", "beside")
ESSENTIAL = ("format_version", "role", "architecture", "classes", "preprocessing", "temperature", "exported")


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
    def from_json(cls, content: Mapping[str, Any], inside: str = "architecture.", built: bool = True) -> Architecture:
        """built: whether a net will be built from it; of a file that runs elsewhere it is only told."""
        source = text(content, "source", inside=inside)
        if source not in SOURCES:
            raise Malformed(f"{inside}source={source[:60]!r} is none of {', '.join(SOURCES)}")
        stem = text(content, "stem", "large", inside)
        if stem not in STEMS:
            raise Malformed(f"{inside}stem={stem[:60]!r} is none of {', '.join(STEMS)}")
        return cls(
            source,
            name_of(content, source, inside),
            stem,
            arguments_of(content, inside),
            edits_of(content, inside, built),
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
class Exported:
    """A model as a file that another runtime runs. preprocess: inside of the file, or beside it. precision: of its weights, as fp32 or int8.

    parameters, macs: of the net that was exported; MACs are None where a net's path depends on values.
    """

    format: str
    preprocess: str = "inside"
    precision: str = "fp32"
    parameters: int = 0
    macs: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "preprocess": self.preprocess,
            "precision": self.precision,
            "parameters": self.parameters,
            "macs": self.macs,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], inside: str = "exported.") -> Exported:
        preprocess = text(content, "preprocess", inside=inside)
        if preprocess not in PREPROCESS:
            raise Malformed(f"{inside}preprocess={preprocess[:60]!r} is none of {', '.join(PREPROCESS)}")
        return cls(
            text(content, "format", inside=inside),
            preprocess,
            text(content, "precision", "fp32", inside),
            integer(content, "parameters", 0, inside, low=0),
            integer(content, "macs", None, inside, low=0),
        )


@dataclass(frozen=True)
class Record:
    """A shipped model. preprocessing: what the kind of its inputs says of them. dataset: where it learned, as a config.

    temperature: what its logits are divided by before they are probabilities, fitted on the validation split; None where nobody has.
    exported: of a file that runs elsewhere; None of weights.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    temperature: float | None = None
    exported: Exported | None = None
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
            **({} if self.temperature is None else {"temperature": self.temperature}),
            **({} if self.exported is None else {"exported": self.exported.to_json()}),
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
        return {name: whole[name] for name in ESSENTIAL if name in whole}

    @classmethod
    def from_json(cls, content: Any) -> Record:
        """Raises Malformed that names the entry, and NewerFormat. Entries that are not needed to use the weights may be missing."""
        if not isinstance(content, Mapping):
            raise Malformed("it has to be a mapping")
        check_format(content)
        exported = Exported.from_json(mapping(content, "exported")) if content.get("exported") is not None else None
        return cls(
            architecture=Architecture.from_json(mapping(content, "architecture"), built=exported is None),
            classes=classes_of(content),
            preprocessing=open_mapping(content, "preprocessing"),
            temperature=temperature_of(content),
            exported=exported,
            role=text(content, "role", "student"),
            stage=text(content, "stage", None),
            dataset=dataset_of(content),
            metrics=open_mapping(content, "metrics", {}),
            epoch=integer(content, "epoch", None),
            epochs=integer(content, "epochs", None),
            seed=integer(content, "seed", None),
            parents=Parents.from_json(mapping(content, "parents", {})),
            versions=open_mapping(content, "versions", {}),
            sha256=text(content, "sha256", ""),
        )


def temperature_of(content: Mapping[str, Any]) -> float | None:
    found = entry(content, "temperature", (int, float), "a number", None)
    if found is not None and not 1e-3 <= found <= 1e3:
        raise Malformed("temperature has to be from 0.001 to 1000")
    return None if found is None else float(found)


def dataset_of(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Where it learned. What OmegaConf would fill in, as from the environment, is not asked for by a record."""
    found: Mapping[str, Any] | None = open_mapping(content, "dataset", None)
    if "${" in repr(found):
        raise Malformed("dataset holds an interpolation (${...})")
    return found


def check_format(content: Mapping[str, Any]) -> None:
    """Whether this distillctl can read it at all: what a later one means by an entry, nobody knows here."""
    version = integer(content, "format_version", FORMAT_VERSION, low=1, high=9999)
    if version > FORMAT_VERSION:
        versions = content.get("versions")
        writer = versions.get("distillctl") if isinstance(versions, Mapping) else None
        known = f"distillctl {writer[:40]}" if isinstance(writer, str) and writer.isprintable() else "a newer distillctl"
        raise NewerFormat(f"was written by {known} in format {version}, this one reads format {FORMAT_VERSION}; upgrade")


def classes_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    names = texts(content, "classes")
    if not names:
        raise Malformed("classes has to be a list of names, and holds none")
    return tuple(names)


def name_of(content: Mapping[str, Any], source: str, inside: str) -> str:
    """A word of a catalogue, or the path of a class: it is written into the loading script, so nothing else may be."""
    name: str = text(content, "name", inside=inside)
    if not (is_path(name) if source == "own" else re.fullmatch(r"\w[\w.-]*", name, re.ASCII)):
        raise Malformed(f"{inside}name={name[:60]!r} is no name of a {'class, as package.module.Class' if source == 'own' else 'net'}")
    return name


def is_path(name: str) -> bool:
    """Whether it reads package.module.Class."""
    parts = name.split(".")
    return len(parts) > 1 and all(is_word(part) for part in parts)


def is_word(name: str) -> bool:
    """Whether it can name an argument in Python; of ASCII letters, as others are not what they seem."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def arguments_of(content: Mapping[str, Any], inside: str) -> Mapping[str, Any]:
    """What a net is built with. Whether it takes them is for `models.arguments` to say."""
    args: Mapping[str, Any] = open_mapping(content, "args", {}, inside)
    for name, value in args.items():
        if not is_word(name):
            raise Malformed(f"{inside}args: {name[:60]!r} is no name of an argument")
        if not modest(value):
            raise Malformed(f"{inside}args.{name} holds a number beyond {LARGEST_ARGUMENT:,}, or a long text")
    return args


def modest(value: Any) -> bool:
    """Whether no number in it asks for more than a net can have."""
    if isinstance(value, (list, tuple, Mapping)):
        return len(value) <= LARGEST_SIZE and all(map(modest, value.values() if isinstance(value, Mapping) else value))
    return abs(value) <= LARGEST_ARGUMENT if isinstance(value, (int, float)) else len(value or "") <= LONGEST


def size(content: Mapping[str, Any], key: str, default: Any = REQUIRED, inside: str = "") -> Any:
    return integer(content, key, default, inside, low=1, high=LARGEST_SIZE, unit=" px")


def edits_of(content: Mapping[str, Any], inside: str, built: bool) -> tuple[Edit, ...]:
    """Those of a file that runs elsewhere are never done, so they are only held against their form, and torch stays away."""
    edits = entry(content, "edits", list, "a list of pairs of texts", [], inside)
    if len(edits) > MOST_EDITS:
        raise Malformed(f"{inside}edits has more than {MOST_EDITS:,} entries")
    for edit in edits:
        if not isinstance(edit, (list, tuple)) or len(edit) != 2 or not all(isinstance(part, str) for part in edit):
            raise Malformed(f"{inside}edits has to be a list of pairs of texts")
    if not built:
        return cast("tuple[Edit, ...]", tuple(map(tuple, edits)))
    from distillctl.models.edits import Edit, change_of

    for edit in edits:
        try:
            change_of(edit[1])
        except CheckpointError as error:
            raise Malformed(f"{inside}edits: {error}") from None
    return tuple(Edit(*edit) for edit in edits)
