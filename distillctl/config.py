"""The typed configuration: every scalar of our own, its range, and the check of a composed config. No torch here."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Optional, get_type_hints

from omegaconf import MISSING, OmegaConf

from distillctl.errors import ConfigError


def number(default: Any, *, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A field with a range: `low` and `high` are allowed values, `above` is not."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def option(default: str, *choices: str) -> Any:
    """A field that takes one of a few words."""
    return field(default=default, metadata={"choices": choices})


@dataclass
class ModelConfig:
    """An architecture and where its weights come from; the teacher and the student are each one of these."""

    name: str = MISSING  # "recorded": as the checkpoint says
    source: str = option("auto", "auto", "cifar", "torchvision", "timm", "own")
    _target_: Optional[str] = None  # one's own class, where the source is "own"
    pretrained: bool = False
    checkpoint: Optional[str] = None
    new_head: bool = False
    stem: str = option("auto", "auto", "small", "large")
    image_size: Optional[int] = number(None, low=1)
    args: dict[str, Any] = field(default_factory=dict)
    ignore_class_names: bool = False


@dataclass
class AugmentConfig:
    """How a training image becomes a view of itself; everything off means the image as it is."""

    crop: str = option("pad", "none", "pad", "resized")
    pad: Optional[int] = number(None, low=0)  # pixels; null: an eighth of the image
    flip: float = number(0.5, low=0, high=1)
    policy: str = option("none", "none", "randaugment", "trivialaugment")
    num_ops: int = number(2, low=1)
    magnitude: int = number(9, low=0, high=30)
    erasing: float = number(0.0, low=0, high=1)
    mixup: float = number(0.0, low=0)
    cutmix: float = number(0.0, low=0)


@dataclass
class DatasetConfig:
    """A labelled image set and how it is split, read and augmented."""

    name: str = MISSING
    root: Optional[str] = None
    download: bool = True
    image_size: Optional[int] = number(None, low=1, high=4096)
    subset: Optional[int] = number(None, low=1)
    val_fraction: float = number(0.1, above=0, high=0.5)
    test_fraction: float = number(0.2, above=0, high=0.5)
    split_seed: int = number(0, low=0, high=2**32 - 1)
    view_seed: Optional[int] = number(None, low=0, high=2**32 - 1)
    on_bad_image: str = option("error", "error", "skip")
    max_pixels: int = number(50_000_000, low=1)
    in_memory: str = option("auto", "auto", "always", "never")
    workers: Optional[int] = number(None, low=0)
    timeout_s: int = number(300, low=1)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class StageConfig:
    """One training stage; its learning rate is `optimizer.lr` times `lr_scale`."""

    epochs: int = number(0, low=0)
    lr_scale: float = number(1.0, above=0)


@dataclass
class TrainerConfig:
    """The engine: where and how the steps are computed."""

    batch_size: int = number(128, low=1)
    device: str = "auto"
    devices: int = number(1, low=1)
    precision: str = option("auto", "auto", "fp32", "bf16", "fp16")
    accumulate: int = number(1, low=1)
    clip_norm: Optional[float] = number(None, above=0)
    ema_decay: float = number(0.0, low=0, high=1)
    compile: bool = False
    channels_last: bool = True
    sync_batchnorm: bool = True
    threads: Optional[int] = number(None, low=1)
    select: str = option("best", "best", "last")
    early_stopping_epochs: Optional[int] = number(None, low=1)
    log_every: int = number(20, low=1)
    save_every_s: float = number(300.0, above=0)
    timeout_s: int = number(600, low=1)


@dataclass
class TrackerConfig:
    """Where metrics go besides metrics.jsonl."""

    name: str = option("none", "none", "tensorboard", "wandb")
    project: str = "distillctl"


@dataclass
class FitConfig:
    """What every command that trains reads."""

    seed: int = number(0, low=0, high=2**32 - 1)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    loss: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    resume: Optional[str] = None
    debug: bool = False


@dataclass
class PretrainConfig(FitConfig):
    """`distillctl pretrain`: a teacher, by labels."""

    teacher: ModelConfig = field(default_factory=ModelConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)


@dataclass
class DistillConfig(FitConfig):
    """`distillctl distill`: a student, by a teacher that is ready."""

    teacher: ModelConfig = field(default_factory=ModelConfig)
    student: ModelConfig = field(default_factory=ModelConfig)
    method: dict[str, Any] = field(default_factory=dict)
    distill: StageConfig = field(default_factory=StageConfig)


@dataclass
class FinetuneConfig(FitConfig):
    """`distillctl finetune`: a student that is ready, by labels."""

    student: ModelConfig = field(default_factory=ModelConfig)
    finetune: StageConfig = field(default_factory=StageConfig)


@dataclass
class TrainConfig(FitConfig):
    """`distillctl train`: all stages in a row, and the same student alone beside them."""

    teacher: ModelConfig = field(default_factory=ModelConfig)
    student: ModelConfig = field(default_factory=ModelConfig)
    method: dict[str, Any] = field(default_factory=dict)
    pretrain: StageConfig = field(default_factory=StageConfig)
    distill: StageConfig = field(default_factory=StageConfig)
    finetune: StageConfig = field(default_factory=StageConfig)
    baseline: bool = True


@dataclass
class EvaluateConfig:
    """`distillctl evaluate`: what a checkpoint is worth on a split."""

    checkpoint: str = MISSING
    split: str = option("test", "train", "val", "test")
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    debug: bool = False


@dataclass
class PredictConfig:
    """`distillctl predict`: class names and probabilities for images."""

    checkpoint: str = MISSING
    inputs: list[str] = MISSING
    format: str = option("table", "table", "jsonl")
    top_k: int = number(3, low=1)
    max_pixels: int = number(50_000_000, low=1)
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    debug: bool = False


@dataclass
class ModelsConfig:
    """`distillctl models`: what can be named as a teacher or a student."""

    search: Optional[str] = None
    source: str = option("auto", "auto", "cifar", "torchvision", "timm")
    classes: int = number(10, low=2)
    image_size: int = number(32, low=1)
    limit: int = number(40, low=1)
    debug: bool = False


@dataclass
class DoctorConfig:
    """`distillctl doctor`: what this machine can do."""

    debug: bool = False


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "distill": DistillConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "models": ModelsConfig,
    "doctor": DoctorConfig,
}

SECRET_FREE_VARIABLES = ("DISTILLCTL_DATA", "HOME", "USER", "SLURM_JOB_ID", "SLURM_TMPDIR", "TMPDIR")


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Every scalar of a config as (full key, value, metadata of its field)."""
    for entry in fields(config):
        value, key = getattr(config, entry.name), prefix + entry.name
        if is_dataclass(value):
            yield from leaves(value, key + ".")
        elif isinstance(value, dict):
            yield from open_leaves(value, key + ".")
        else:
            yield key, value, entry.metadata


def open_leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """The same for a node whose keys belong to a component (an optimizer, a loss)."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from open_leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, {}


def names(schema: type, prefix: str = "") -> list[str]:
    """Full names of all keys of a schema, branches included."""
    found = []
    for entry in fields(schema):
        found.append(prefix + entry.name)
        branch = branch_type(schema, entry.name)
        if branch is not None:
            found += names(branch, f"{prefix}{entry.name}.")
    return found


def strangers(node: Mapping[str, Any], schema: type, prefix: str = "") -> list[str]:
    """Keys of a composed config that its schema does not have; a component's own keys are its own business."""
    known = {entry.name for entry in fields(schema)}
    found = [f"{prefix}{key}" for key in node if key not in known]
    for key, value in node.items():
        branch = branch_type(schema, key) if key in known else None
        if branch is not None and isinstance(value, Mapping):
            found += strangers(value, branch, f"{prefix}{key}.")
    return found


@cache
def branch_type(schema: type, name: str) -> type | None:
    """The dataclass of a field, None for a scalar."""
    kind = get_type_hints(schema)[name]
    return kind if is_dataclass(kind) and isinstance(kind, type) else None


def check(config: Any) -> list[str]:
    """Everything that types cannot see and that needs neither data nor torch; one line a problem."""
    problems = [problem for key, value, rules in leaves(config) if (problem := broken_rule(key, value, rules))]
    stages = [name for name in ("pretrain", "distill", "finetune") if hasattr(config, name)]
    if stages and all(getattr(config, name).epochs == 0 for name in stages):
        keys = " ".join(f"{name}.epochs=0" for name in stages)
        problems.append(f"{keys}: nothing to train; give one of them epochs")
    for role in ("teacher", "student", "model"):
        model: ModelConfig | None = getattr(config, role, None)
        if model is not None:
            problems += check_model(role, model)
    trainer: TrainerConfig | None = getattr(config, "trainer", None)
    if trainer is not None and trainer.accumulate > trainer.batch_size:
        problems.append(f"trainer.accumulate={trainer.accumulate} is more than trainer.batch_size={trainer.batch_size}; lower it")
    if trainer is not None and trainer.devices > trainer.batch_size:
        problems.append(f"trainer.devices={trainer.devices} is more than trainer.batch_size={trainer.batch_size}; lower it")
    return problems


def check_model(role: str, model: ModelConfig) -> list[str]:
    problems = []
    if model.source == "own" and not model._target_:
        problems.append(f"{role}={model.name} needs {role}._target_=package.Class, and --trust package on the command line")
    if model._target_ and model.source != "own":
        problems.append(f"{role}._target_={model._target_} works with {role}=own only")
    if model.new_head and not (model.pretrained or model.checkpoint):
        problems.append(f"{role}.new_head=true needs weights to start from: {role}.pretrained=true or {role}.checkpoint=<file>")
    return problems


def broken_rule(key: str, value: Any, rules: Mapping[str, Any]) -> str | None:
    """The sentence about a value outside its range or choices."""
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{key}={value} must be a finite number"
    choices = rules.get("choices")
    if choices and value not in choices:
        return f"{key}={value}: must be one of {', '.join(choices)}"
    if rules.get("above") is not None and not value > rules["above"]:
        return f"{key}={value} must be > {rules['above']}"
    if rules.get("low") is not None and value < rules["low"]:
        return f"{key}={value} must be >= {rules['low']}"
    if rules.get("high") is not None and value > rules["high"]:
        return f"{key}={value} must be <= {rules['high']}"
    return None


def register() -> None:
    """Make the schemas known to Hydra, and keep secrets of the environment out of configs."""
    from hydra.core.config_store import ConfigStore

    for command, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{command}_schema", node=schema)
    OmegaConf.register_new_resolver("oc.env", read_variable, replace=True)


def read_variable(name: str, default: Any = None) -> Any:
    """`${oc.env:NAME}` for names that hold no secret: a config from elsewhere must not read tokens."""
    if name not in SECRET_FREE_VARIABLES:
        raise ConfigError(f"${{oc.env:{name}}} is not allowed; known: {', '.join(SECRET_FREE_VARIABLES)}")
    value = os.environ.get(name, default)
    if value is None:
        raise ConfigError(f"${{oc.env:{name}}}: the variable {name} is not set")
    return value
