"""How long a run trains, and in which batches, where its config says `auto`: by optimizer steps and by the size of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from distillctl.config import AUTO, DatasetConfig, StageConfig, TrainConfig
from distillctl.data.loader import batch_sizes

STEPS = {
    "pretrain": 1500,
    "distill": 1000,
    "finetune": 100,
    "lifelong": 1500,
}  # of the optimizer: 3,000 images of CIFAR-10 gain 2 to 3 points by them
LEAST_EPOCHS = {"pretrain": 20, "distill": 12, "finetune": 2, "lifelong": 5}  # however large the set
MOST_EPOCHS = 200  # however small
BATCHES = 40  # in an epoch, where the set has them
SMALLEST, LARGEST = 16, 128  # of batches

DEMO = "digits"  # a set so easy that a run of seconds shows what there is to see
DEMO_SIZE = 128
DEMO_EPOCHS = {"pretrain": 25, "distill": 6, "finetune": 2}
DEMO_EPOCHS_ALONE = {"pretrain": 20, "distill": 20, "finetune": 5, "lifelong": 10}  # of a command that is about one stage


def settle(config: Any, samples: int, pieces: int) -> Any:
    """The config with a number for every `auto`. samples: for training; pieces: that a batch is cut into."""
    demo = is_demo(config.dataset)
    size = config.trainer.batch_size
    if size == AUTO:
        size = min(DEMO_SIZE, samples) if demo else batch_size(samples, pieces)
    per_epoch = max(1, len(batch_sizes(samples, size, pieces)))
    usual = DEMO_EPOCHS if isinstance(config, TrainConfig) else DEMO_EPOCHS_ALONE
    stages = {
        name: replace(stage, epochs=usual[name] if demo else epochs(name, per_epoch))
        for name, stage in stages_of(config).items()
        if stage.epochs == AUTO
    }
    return replace(config, trainer=replace(config.trainer, batch_size=size), **stages)


def is_demo(dataset: DatasetConfig) -> bool:
    return dataset.name == DEMO and dataset.subset is None and dataset.shots is None


def batch_size(samples: int, pieces: int) -> int:
    """The power of two that cuts an epoch into some BATCHES, within bounds, with two samples or more for each piece."""
    wished = 2 ** int(math.log2(max(samples / BATCHES, 1)))
    return max(1, min(max(SMALLEST, min(max(wished, 2 * pieces), LARGEST)), samples))


def epochs(stage: str, per_epoch: int) -> int:
    """As many as the steps of a stage take, within bounds."""
    return min(max(-(-STEPS[stage] // per_epoch), LEAST_EPOCHS[stage]), MOST_EPOCHS)


def stages_of(config: Any) -> dict[str, StageConfig]:
    found = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    return {name: value for name, value in found.items() if isinstance(value, StageConfig)}


def choices(config: Any) -> dict[str, Any]:
    """What is, or was, `auto` of a config, by full keys."""
    return {
        "trainer.batch_size": config.trainer.batch_size,
        **{f"{name}.epochs": stage.epochs for name, stage in stages_of(config).items()},
    }


def settle_as(config: Any, before: Any) -> Any:
    """What an earlier attempt chose, as run.json has it, for every `auto`; whatever is odd in it is chosen again."""
    known = before if isinstance(before, Mapping) else {}
    numbers = {key: number for key, number in known.items() if isinstance(number, int) and not isinstance(number, bool) and number > 0}
    stages = {
        name: replace(stage, epochs=numbers[f"{name}.epochs"])
        for name, stage in stages_of(config).items()
        if stage.epochs == AUTO and f"{name}.epochs" in numbers
    }
    if config.trainer.batch_size == AUTO and "trainer.batch_size" in numbers:
        stages["trainer"] = replace(config.trainer, batch_size=numbers["trainer.batch_size"])
    return replace(config, **stages)


def open_keys(config: Any) -> list[str]:
    """The keys of a config that are `auto`."""
    return [key for key, value in choices(config).items() if value == AUTO]
