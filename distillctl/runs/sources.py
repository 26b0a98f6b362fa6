"""Where the models of a plan come from: given by the config, made by a step before, or several that answer as one. Nothing is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from distillctl.config import ENSEMBLE, ExportConfig, ModelConfig, TeacherConfig
from distillctl.errors import ConfigError
from distillctl.models.locate import locate


@dataclass(frozen=True)
class Given:
    """A model as the config describes it, with the weights that it names or with fresh ones. key: its place in the config."""

    model: ModelConfig
    key: str


@dataclass(frozen=True)
class MadeBy:
    """What an earlier step leaves: its student, or one that trained beside it."""

    step: str
    peer: str = ""


@dataclass(frozen=True)
class Several:
    """Models that answer as one. teacher: how; its own members are described by `members`."""

    teacher: TeacherConfig
    members: Mapping[str, Given | MadeBy]


Source = Given | MadeBy | Several
# what `MadeBy` says of the student before or after fine-tuning, whichever is the better, and of the last file that was accepted
CHOICE, FILE = "choice", "file"


def start_from(model: ModelConfig, weights: Path) -> ModelConfig:
    """The same model, beginning with the weights of another step."""
    return replace(model, name="recorded", checkpoint=str(weights), file=None, pretrained=False, new_head=False, ignore_class_names=True)


def weights_of(config: ExportConfig) -> ModelConfig:
    """The model that is exported: of a run's folder the weights, whatever was made of them there. Raises CheckpointError."""
    given = config.model.checkpoint
    return config.model if given is None else replace(config.model, checkpoint=str(locate(given, "student", "checkpoint")))


def parts(source: Source | None) -> Iterator[Given | MadeBy]:
    """The single models that a source is made of."""
    if isinstance(source, Several):
        yield from source.members.values()
    elif source is not None:
        yield source


def members_of(teacher: TeacherConfig) -> dict[str, ModelConfig]:
    """The models that a teacher is made of, by their places in the config: itself, or the members of an ensemble."""
    if teacher.name == ENSEMBLE:
        return {f"teacher.members.{name}": member for name, member in teacher.members.items()}
    return {"teacher": teacher}


def is_named(model: ModelConfig) -> bool:
    """Whether a config says which model, for a command that can do without: `recorded` without a checkpoint or a file is none."""
    return model.name not in ("recorded", MISSING) or model.checkpoint is not None or model.file is not None


def is_ready(model: ModelConfig) -> bool:
    """Whether it needs no training here: weights of these classes are given."""
    return bool(model.checkpoint or model.file or model.pretrained or model.model) and not model.new_head


def peer_models(method: Mapping[str, Any] | None) -> dict[str, ModelConfig]:
    """`method.peers=[a,b]` as models, by the names of their folders."""
    peers = method.get("peers", ()) if method else ()
    if isinstance(peers, str) or not all(isinstance(name, str) for name in peers):
        raise ConfigError(f"method.peers={peers}: expected a list of model names, as in method.peers=[resnet8,vgg8]")
    if method and "peers" in method and not peers:
        raise ConfigError("method.peers=[]: name at least one student to train beside the first, as in method.peers=[resnet8]")
    return {f"peer{number}": ModelConfig(name=name) for number, name in enumerate(peers, start=1)}
