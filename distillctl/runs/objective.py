"""What a sweeper is told of a run: figures of the validation split and costs, and never one of the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillctl.errors import ConfigError, did_you_mean
from distillctl.metrics.metric import METRICS, VALIDATION, costs, on_validation
from distillctl.runs.choose import BY_TEACHER

if TYPE_CHECKING:  # sweeps begin without torch
    from distillctl.runs.steps import Plan

USUAL = ("val_top1", "val_agreement")  # the first that a model has


def names_of(objective: Any) -> tuple[str, ...]:
    """The keys of `objective`; none where it is not given. Raises ConfigError where one is no figure that may be chosen by."""
    if objective is None:
        return ()
    names = [objective] if isinstance(objective, str) else objective
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"objective={objective}: expected a figure, as in objective=val_top1, or a list, as in objective=[val_top1,macs]")
    for name in names:
        check_name(name)
    if len(set(names)) < len(names):
        raise ConfigError(f"objective=[{','.join(names)}]: a figure is named twice; name it once")
    return tuple(names)


def check_name(name: str) -> None:
    allowed = (*on_validation(), *costs())
    if name in allowed:
        return
    measured = name.removeprefix(VALIDATION).removeprefix("test_")
    if measured in {metric.key for metric in METRICS if metric.better}:
        instead = VALIDATION + measured
        raise ConfigError(
            f"objective={name}: a figure of the test split, by which nothing is chosen; "
            f"take objective={instead if instead in allowed else USUAL[0]}"
        )
    raise ConfigError(f"objective={name}: no such figure; {did_you_mean(name, allowed)}")


def check_measurable(objective: Any, plan: Plan, labelled: bool, classes: int, noun: str) -> None:
    """Whether a run measures what it is to tell. labelled: whether its validation samples have labels. Raises ConfigError."""
    for name in names_of(objective):
        if name in BY_TEACHER and (plan.final == "teacher" or all(row.name != "teacher" for row in plan.rows)):
            raise ConfigError(f"objective={name} compares a student with a teacher, and here is none; take objective=val_top1")
        if name.startswith(VALIDATION) and name not in BY_TEACHER and not labelled:
            raise ConfigError(f"objective={name} needs labels, and the validation {noun} have none; take objective=val_agreement")
        if name == "val_top5" and classes <= 5:
            raise ConfigError(f"objective={name} is measured of more than 5 classes, and here are {classes}; take objective=val_top1")


def told(row: Mapping[str, Any], objective: Any) -> dict[str, float]:
    """The figures of a model that a sweeper is told, by their keys: NaN where the model has none, as MACs of a path that values decide."""
    usual = next((key for key in USUAL if row.get(key) is not None), USUAL[0])
    values = {key: row.get(key) for key in names_of(objective) or (usual,)}
    return {key: float("nan") if value is None else float(value) for key, value in values.items()}


def as_returned(figures: Mapping[str, float]) -> float | tuple[float, ...]:
    """As Hydra's sweepers take them: a number, or several in the order in which they were named."""
    values = tuple(figures.values())
    return values[0] if len(values) == 1 else values
