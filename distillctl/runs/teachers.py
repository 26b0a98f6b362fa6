"""The teacher of a run, one model or several: what it is made of, whether it has weights, and how it is made."""

from __future__ import annotations

from typing import Any

from torch import nn

from distillctl.build import find_class
from distillctl.config import ENSEMBLE, ModelConfig, TeacherConfig
from distillctl.errors import ConfigError
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.method import Method
from distillctl.models.committee import class_order, gather, taps_of
from distillctl.models.obtain import Images, obtain
from distillctl.runs import unlabelled
from distillctl.runs.session import Session
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen


def members_of(model: ModelConfig, key: str = "teacher") -> dict[str, ModelConfig]:
    """The models that one is made of, by their places in the config: itself, or the members of an ensemble."""
    if isinstance(model, TeacherConfig) and model.name == ENSEMBLE:
        return {f"{key}.members.{name}": member for name, member in model.members.items()}
    return {key: model}


def planned_teacher(teacher: TeacherConfig, taps: tuple[str, ...] = ()) -> list[tuple[ModelConfig, str, tuple[str, ...]]]:
    """(model, key, what is tapped in it) of all that it is made of."""
    if teacher.name != ENSEMBLE:
        return [(teacher, "teacher", taps)]
    return list(zip(teacher.members.values(), members_of(teacher), taps_of(teacher, taps).values(), strict=True))


def is_ready(model: ModelConfig) -> bool:
    """Whether it needs no training here: weights of these classes are given."""
    return bool(model.checkpoint or model.pretrained) and not model.new_head


def check_is_trained(config: Any, key: str, model: ModelConfig) -> None:
    """A teacher with random weights teaches noise. Raises ConfigError."""
    trained_here = hasattr(config, "pretrain") and config.pretrain.epochs
    with_labels = config.dataset.labels or not hasattr(config, "distill")  # pretrain alone is refused without them
    if is_ready(model) or model.name == "recorded" or trained_here and with_labels:
        return
    way_out = f"{key}.checkpoint=<run folder or file>, {key}.pretrained=true"
    if trained_here:
        raise ConfigError(f"{unlabelled.OFF}: {key}={model.name} cannot be trained without labels; set {way_out}")
    if hasattr(config, "pretrain"):
        raise ConfigError(f"{key}={model.name} is neither trained nor pretrained: set {way_out} or pretrain.epochs=N")
    raise ConfigError(f"{key}={model.name} is neither trained nor pretrained: set {way_out}, or run distillctl pretrain first")


def make_teacher(session: Session, teacher: ModelConfig, taps: tuple[str, ...], loss: WeightedSum) -> Frozen:
    """The teacher that answers batches. An ensemble mixes at the temperature of the loss where none is given."""
    machine, channels_last = session.runtime, session.config.trainer.channels_last
    if not (isinstance(teacher, TeacherConfig) and teacher.name == ENSEMBLE):
        obtained = obtain(teacher, session.images, "teacher", session.config.seed, taps=taps)
        frozen = Frozen(obtained.classifier, machine.precision, machine.device, channels_last)
        frozen.name = obtained.net.name
        return made_faster(session, frozen)
    for key, member in members_of(teacher).items():
        if class_order(member, session.images, key) is not None:
            session.console.say(f"{key}: it knows the classes in another order; its answers are put into that of the data set")
    committee, name = gather(teacher, session.images, "teacher", session.config.seed, taps)
    ensemble = Ensemble(
        committee,
        machine.precision,
        machine.device,
        channels_last,
        combine=teacher.combine,
        temperature=lambda: teacher.temperature or temperature_of(loss),
    )
    ensemble.name = name
    return made_faster(session, ensemble)


def made_faster(session: Session, teacher: Frozen) -> Frozen:
    """As `teacher.fold_batchnorm` and `teacher.micro_batch` say. A method that looks inside its teacher gets it as it is."""
    config = session.config
    teacher.micro_batch = config.teacher.micro_batch
    if config.teacher.fold_batchnorm and find_class(config.method, Method, "method").asks_of_views:
        teacher.fold(session.few_images(4).inputs)
    return teacher


def temperature_of(loss: WeightedSum) -> float:
    """What the first term that softens the teacher's answers softens them by now; 1 where none does."""
    found = [getattr(term, "temperature", None) for term in loss.terms.values() if term.needs_teacher]
    return next((float(value) for value in found if isinstance(value, (int, float))), 1.0)


def ready_to_answer(model: ModelConfig, images: Images, key: str, seed: int) -> tuple[nn.Module, str]:
    """A model with its weights, images -> Output, and what its architecture is called; several as one."""
    if isinstance(model, TeacherConfig) and model.name == ENSEMBLE:
        return gather(model, images, key, seed)
    obtained = obtain(model, images, key, seed)
    return obtained.classifier, obtained.net.name
