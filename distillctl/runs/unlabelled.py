"""What is left of a run where the training samples have no labels, and what is refused before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillctl.build import find_class
from distillctl.config import Distils, LifelongConfig, Pretrains
from distillctl.errors import ConfigError
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.methods.adversarial import Adversarial
from distillctl.methods.method import Method

OFF = "dataset.labels=false"
LABEL_FREE = "kd, dist, lskd, mse, funmatch"  # a few of many


def loss_of(config: Any) -> Mapping[str, Any]:
    """The loss of a step with a teacher: `loss`, and where there are no labels, what of it needs none. Raises ConfigError where nothing is left."""
    if config.dataset.labels:
        return config.loss
    loss = build_loss(config.loss)
    off = of_labels_alone(loss)
    for name, term in loss.terms.items():
        if name not in off and needs_labels(term):
            raise ConfigError(f"{OFF}: loss.{name} needs labels; {LABEL_FREE} and others do not")
    kept = {name: node for name, node in config.loss.items() if name in loss.terms and name not in off}
    if not kept:
        raise ConfigError(f"{OFF}: loss={'+'.join(off)} learns from labels alone; take one that does not: {LABEL_FREE}")
    return kept


def of_labels_alone(loss: WeightedSum) -> list[str]:
    """The terms that are about nothing but labels, such as `ce`: training can go on without them."""
    return [name for name, term in loss.terms.items() if needs_labels(term) and not term.needs_teacher]


def needs_labels(term: Any) -> bool:
    """Whether a loss term looks at `batch.targets`."""
    return getattr(term, "needs_labels", False)


def remark(config: Any) -> str | None:
    """A line about the terms that are off."""
    if config.dataset.labels:
        return None
    off = of_labels_alone(build_loss(config.loss))
    return f"no labels: {', '.join(f'loss.{name}' for name in off)} {'are' if len(off) > 1 else 'is'} off" if off else None


def check_without_labels(config: Any) -> None:
    """Commands, stages and methods that cannot be without labels. Raises ConfigError."""
    if config.dataset.labels or isinstance(config, LifelongConfig):  # of tasks the plan says so
        return
    if not isinstance(config, Distils):
        stage = "pretrain" if isinstance(config, Pretrains) else "finetune"
        raise ConfigError(
            f"{OFF}: {stage} learns from labels; without them there is distillctl distill teacher.checkpoint=<run folder or file>"
        )
    if config.distill.epochs == 0:
        raise ConfigError(f"{OFF}: distill.epochs=0 leaves nothing to train; the other stages learn from labels")
    method, loss = find_class(config.method, Method, "method"), build_loss(loss_of(config))
    if issubclass(method, Adversarial) and config.method.get("objective", "ce") == "ce":
        raise ConfigError(f"{OFF}: method.objective=ce attacks by labels; method.objective=kl needs none")
    if not (loss.needs_teacher if method.needs_teacher is None else method.needs_teacher):
        raise ConfigError(f"{OFF}: {method.__name__} has no teacher here, so there is nothing to learn from; method=distill has one")
