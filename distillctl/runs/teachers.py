"""The teacher of a run, one model or several: what it is made of, whether it has weights, and how it is made."""

from __future__ import annotations

from typing import Any

from torch import nn

from distillctl.config import ENSEMBLE, TOLD, Distils, ModelConfig, Pretrains, TeacherConfig
from distillctl.errors import ConfigError
from distillctl.inputs.contract import Contract
from distillctl.losses.weighted import WeightedSum
from distillctl.models.committee import class_order, gather
from distillctl.models.obtain import obtain
from distillctl.runs import unlabelled
from distillctl.runs.bundle import Bundle
from distillctl.runs.session import Session
from distillctl.runs.sources import is_ready, members_of
from distillctl.teachers.answers.known import FromFile
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen


def check_is_trained(config: Any, key: str, model: ModelConfig) -> None:
    """A teacher with random weights teaches noise. Raises ConfigError."""
    trains = isinstance(config, Pretrains)
    with_labels = config.dataset.labels or not isinstance(config, Distils)  # pretrain alone is refused without them
    if is_ready(model) or model.name == "recorded" or trains and config.pretrain.epochs and with_labels:
        return
    way_out = f"{key}.checkpoint=<run folder or file>, {key}.pretrained=true"
    if trains and config.pretrain.epochs:
        raise ConfigError(f"{unlabelled.OFF}: {key}={model.name} cannot be trained without labels; set {way_out}")
    if trains:
        raise ConfigError(f"{key}={model.name} is neither trained nor pretrained: set {way_out} or pretrain.epochs=N")
    raise ConfigError(f"{key}={model.name} is neither trained nor pretrained: set {way_out}, or run distillctl pretrain first")


def make_teacher(session: Session, bundle: Bundle, teacher: ModelConfig, taps: tuple[str, ...], loss: WeightedSum) -> Frozen:
    """The teacher that answers batches. An ensemble mixes at the temperature of the loss where none is given."""
    machine, channels_last, seed = session.runtime, session.config.trainer.channels_last, session.config.seed
    if teacher.name in TOLD:
        assert bundle.answers is not None
        return FromFile(bundle.answers, machine.precision, machine.device)
    if not (isinstance(teacher, TeacherConfig) and teacher.name == ENSEMBLE):
        obtained = obtain(teacher, bundle.inputs, "teacher", seed, taps=taps)
        frozen = Frozen(obtained.classifier, machine.precision, machine.device, channels_last)
        frozen.name = obtained.net.name
        return frozen
    for key, member in members_of(teacher).items():
        if class_order(member, bundle.inputs, key) is not None:
            session.console.say(f"{key}: it knows the classes in another order; its answers are put into that of the data set")
    committee, name = gather(teacher, bundle.inputs, "teacher", seed, taps)
    ensemble = Ensemble(
        committee,
        machine.precision,
        machine.device,
        channels_last,
        combine=teacher.combine,
        temperature=lambda: teacher.temperature or temperature_of(loss),
    )
    ensemble.name = name
    return ensemble


def temperature_of(loss: WeightedSum) -> float:
    """What the first term that softens the teacher's answers softens them by now; 1 where none does."""
    found = [getattr(term, "temperature", None) for term in loss.terms.values() if term.needs_teacher]
    return next((float(value) for value in found if isinstance(value, (int, float))), 1.0)


def ready_to_answer(model: ModelConfig, inputs: Contract, key: str, seed: int) -> tuple[nn.Module, str]:
    """A model with its weights, images -> Output, and what its architecture is called; several as one."""
    if isinstance(model, TeacherConfig) and model.name == ENSEMBLE:
        return gather(model, inputs, key, seed)
    obtained = obtain(model, inputs, key, seed)
    return obtained.classifier, obtained.net.name
