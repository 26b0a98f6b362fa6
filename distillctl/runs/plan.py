"""What one stage trains, and by what; and what follows from a config about the stages to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from distillctl.build import find_class
from distillctl.config import ModelConfig, StageConfig
from distillctl.draws import seed_of
from distillctl.errors import ConfigError
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.methods.attack import Pgd
from distillctl.methods.method import Method
from distillctl.teachers.frozen import Frozen

Model = TypeVar("Model", bound=ModelConfig)


@dataclass(frozen=True)
class Task:
    """What one stage trains, and by what."""

    name: str
    role: str  # "teacher" or "student": what the shipped files are called
    model: ModelConfig
    loss: WeightedSum
    budget: StageConfig
    teacher: Frozen | None = None
    method: Mapping[str, Any] | None = None
    generation: int = 1  # of born-again students: each has a seed of its own
    member: str = ""  # of an ensemble: each has a seed of its own

    def taps(self, role: str) -> tuple[str, ...]:
        """What is read of the student or of the teacher, besides logits."""
        own_teacher = self.teacher is None and role == "student"
        return tuple(dict.fromkeys((*self.loss.taps(role), *reads(self.method, role), *(self.loss.taps("teacher") if own_teacher else ()))))

    def seed(self, seed: int) -> int:
        """Of fresh weights, order and views, where `seed` is that of the run."""
        if self.member:
            return seed_of(seed, "member", self.member)
        return seed if self.generation == 1 else seed_of(seed, "generation", self.generation)

    def peers(self) -> dict[str, ModelConfig]:
        """The students that train beside the first, by the names of their folders."""
        return peer_models(self.method)


def reads(method: Mapping[str, Any] | None, role: str) -> tuple[str, ...]:
    """Taps that a method reads, whatever its loss does."""
    return find_class(method, Method, "method").reads(method, role) if method else ()


def peer_models(method: Mapping[str, Any] | None) -> dict[str, ModelConfig]:
    """`method.peers=[a,b]` as models, by the names of their folders."""
    peers = method.get("peers", ()) if method else ()
    if isinstance(peers, str) or not all(isinstance(name, str) for name in peers):
        raise ConfigError(f"method.peers={peers}: expected a list of model names, as in method.peers=[resnet8,vgg8]")
    if method and "peers" in method and not peers:
        raise ConfigError("method.peers=[]: name at least one student to train beside the first, as in method.peers=[resnet8]")
    return {f"peer{number}": ModelConfig(name=name) for number, name in enumerate(peers, start=1)}


def steps_ask(loss: WeightedSum, method: Mapping[str, Any] | None) -> bool:
    """Whether training asks the teacher about its images. Where labels are all that a loss reads, only measurements do."""
    if method and find_class(method, Method, "method").needs_teacher is False:
        return False
    return loss.needs_teacher or bool(reads(method, "teacher"))


def teacher_is_read(config: Any) -> bool:
    """Whether the method or a loss looks at the teacher at all."""
    if not hasattr(config, "method"):
        return True
    needed = find_class(config.method, Method, "method").needs_teacher
    return build_loss(config.loss).needs_teacher if needed is None else needed


def labels_only(loss: dict[str, Any]) -> WeightedSum:
    """The loss of supervised training: cross-entropy alone, smoothed as `loss.ce` says."""
    return build_loss({"ce": {"_target_": "distillctl.losses.logits.CrossEntropy", **label_term(loss)}})


def label_term(loss: dict[str, Any]) -> dict[str, Any]:
    """What `loss.ce` says, its weight aside."""
    return {key: value for key, value in loss.get("ce", {}).items() if key != "weight"}


def training_attack(config: Any, seed: int) -> Pgd:
    """The attack that a method trains against."""
    if config.attack.name == "none":
        raise ConfigError("attack=none: this method trains against an attack; choose attack=pgd")
    return Pgd.for_training(config.attack, seed)


def start_from(model: Model, weights: Path) -> Model:
    """The same model, beginning with the weights of another stage."""
    return replace(model, name="recorded", checkpoint=str(weights), pretrained=False, new_head=False, ignore_class_names=True)
