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


def number(default: Any, *, low: float | None = None, high: float | None = None, above: float | None = None, unit: str = "") -> Any:
    """A field with a range: `low` and `high` are allowed values, `above` is not. `unit` is told to who is above `high`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above, "unit": unit})


def option(default: Optional[str], *choices: str) -> Any:
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


ENSEMBLE = "ensemble"  # the teacher that is several


@dataclass
class MemberConfig(ModelConfig):
    """One of several teachers; its checkpoint alone is enough."""

    name: str = "recorded"


@dataclass
class CacheConfig:
    """Answers of the teacher that are kept on the disk, for views that come again."""

    mode: str = option("auto", "off", "auto", "fill", "require")
    dir: Optional[str] = None  # null: $DISTILLCTL_CACHE, else outputs/.cache
    dtype: str = option("fp16", "fp16", "fp32")
    features: str = option("vectors", "vectors", "none", "all")  # of those that are read: vectors [B, C]; all: maps and tokens too
    top_k: Optional[int] = number(None, low=1)  # classes; null: all, and of more than 256 the 16 likeliest
    shared: bool = False  # other runs see the same views and have this teacher; set by itself in a sweep whose jobs do


@dataclass
class TeacherConfig(ModelConfig):
    """One model, or with teacher=ensemble several, and how their answers become one."""

    members: dict[str, Any] = field(default_factory=dict)  # each a MemberConfig once the config is typed
    combine: str = option("mean_probability", "mean_probability", "mean_logit", "mean_loss", "confidence", "entropy", "fixed")
    weights: dict[str, float] = field(default_factory=dict)  # of members, for combine=fixed; 1 for those that are not named
    temperature: Optional[float] = number(None, above=0)  # at which probabilities are mixed; null: that of the loss
    fold_batchnorm: bool = True  # into the convolutions before it: faster, with the same answers up to rounding
    micro_batch: Optional[int] = number(None, low=1)  # images that it answers at once, for less memory; null: a whole batch
    cache: CacheConfig = field(default_factory=CacheConfig)


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
    """An image set and how it is split, read and augmented."""

    name: str = MISSING
    root: Optional[str] = None
    download: bool = True
    image_size: Optional[int] = number(None, low=1, high=4096)
    subset: Optional[int] = number(None, low=1)
    shots: Optional[int] = number(None, low=1)  # training images a class
    labels: bool = True  # false: the training images have none, or they are not looked at
    val_fraction: float = number(0.1, above=0, high=0.5)
    test_fraction: float = number(0.2, above=0, high=0.5)
    split_seed: int = number(0, low=0, high=2**32 - 1)
    view_seed: Optional[int] = number(None, low=0, high=2**32 - 1)
    views: Optional[int] = number(None, low=1)  # of each image, which the epochs take in turn; null: a new one each epoch
    on_bad_image: str = option("error", "error", "skip")
    max_pixels: int = number(50_000_000, low=1)
    in_memory: str = option("auto", "auto", "always", "never")
    workers: Optional[int] = number(None, low=0)
    timeout_s: int = number(300, low=1)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class AttackConfig:
    """The worst small change of an image: what a method trains against, and what robust accuracy is measured under."""

    name: str = option("none", "none", "pgd")
    eps: float = number(8 / 255, above=0, high=1, unit="images are in [0, 1], where 8 of 255 is 0.0314")  # the largest change of a value
    step: float = number(2 / 255, above=0, high=1, unit="images are in [0, 1], where 2 of 255 is 0.00784")
    steps: int = number(10, low=1)  # while training
    eval_steps: int = number(20, low=1)  # while measuring
    random_start: bool = True


@dataclass
class StageConfig:
    """One training stage; its learning rate is `optimizer.lr` times `lr_scale`."""

    epochs: int = number(0, low=0)
    lr_scale: float = number(1.0, above=0)


@dataclass
class PretrainStageConfig(StageConfig):
    """The teacher's stage, which is skipped where the same one was trained before."""

    reuse: bool = True


@dataclass
class LoraConfig:
    """Low-rank adapters: W x + (alpha / rank) B A x, dropout before A."""

    rank: int = number(8, low=1)
    alpha: int = number(16, low=1)
    dropout: float = number(0.0, low=0, high=0.9)


@dataclass
class FinetuneStageConfig(StageConfig):
    """A stage that may train a part of the model alone, and its early layers slower than its late ones."""

    train: str = option("all", "all", "head", "last", "lora")
    stages: int = number(1, low=1)  # with train=last: how many before the head
    layer_decay: float = number(1.0, above=0, high=1)  # what the learning rate is multiplied by at each stage from the head
    lora: LoraConfig = field(default_factory=LoraConfig)
    adversarial: bool = False  # on images that `attack` has changed


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
    select_by: Optional[str] = option(
        None, "val_top1", "val_nll", "val_ece", "val_agreement", "val_kl"
    )  # null: val_top1, without labels val_agreement
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
class Pretrains:
    """What commands that train a teacher read."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)


@dataclass
class Distils:
    """What commands that train a student by a teacher read."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: ModelConfig = field(default_factory=ModelConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    method: dict[str, Any] = field(default_factory=dict)
    distill: StageConfig = field(default_factory=StageConfig)
    assistants: list[str] = field(default_factory=list)  # models between teacher and student, from big to small
    generations: int = number(1, low=1)  # of students, each taught by the one before
    ensemble_generations: bool = False  # a row for the mean of all generations


@dataclass
class Finetunes:
    """What commands that train a student which is ready read."""

    student: ModelConfig = field(default_factory=ModelConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    finetune: FinetuneStageConfig = field(default_factory=FinetuneStageConfig)


@dataclass
class PretrainConfig(Pretrains, FitConfig):
    """`distillctl pretrain`: a teacher, by labels."""


@dataclass
class DistillConfig(Distils, FitConfig):
    """`distillctl distill`: a student, by a teacher that is ready."""


@dataclass
class FinetuneConfig(Finetunes, FitConfig):
    """`distillctl finetune`: a student that is ready, by labels."""


@dataclass
class TrainConfig(Finetunes, Distils, Pretrains, FitConfig):
    """`distillctl train`: all stages in a row, and the same student alone beside them."""

    pretrain: PretrainStageConfig = field(default_factory=PretrainStageConfig)
    baseline: bool = True


@dataclass
class EvaluateConfig:
    """`distillctl evaluate`: what a checkpoint is worth on a split."""

    checkpoint: str = MISSING
    split: str = option("test", "train", "val", "test")
    model: ModelConfig = field(default_factory=ModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
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
    taps: Optional[str] = None  # a model, whose places to read features from are listed instead
    source: str = option("auto", "auto", "cifar", "torchvision", "timm")
    classes: int = number(10, low=2)
    image_size: int = number(32, low=1)
    limit: int = number(40, low=1)
    debug: bool = False


@dataclass
class CachesConfig(DistillConfig):
    """`distillctl cache`: the kept answers of teachers. The keys of `distill` say of which teacher to which views."""

    action: str = option("list", "list", "verify", "prune", "plan", "fill")
    dir: Optional[str] = None  # short for teacher.cache.dir
    views: Optional[int] = number(None, low=1)  # to plan for or to fill; null: dataset.views
    older_than_days: Optional[float] = number(None, low=0)
    all: bool = False


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
    "cache": CachesConfig,
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
        elif is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
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
    if hasattr(config, "finetune"):
        problems += check_finetuning(config)
    dataset: DatasetConfig | None = getattr(config, "dataset", None)
    if dataset is not None:
        problems += check_shots(dataset)
    for role in ("teacher", "student", "model"):
        model: ModelConfig | None = getattr(config, role, None)
        if model is not None:
            problems += check_model(role, model)
    teacher = getattr(config, "teacher", None)
    if isinstance(teacher, TeacherConfig):
        problems += check_ensemble(teacher)
        if teacher.combine == "confidence" and dataset is not None and not dataset.labels:
            problems.append("teacher.combine=confidence weighs by labels, and dataset.labels=false; take teacher.combine=entropy")
    if getattr(config, "ensemble_generations", False) and config.generations == 1:
        problems.append("ensemble_generations=true is about several generations; pass generations=2 or more")
    attack: AttackConfig | None = getattr(config, "attack", None)
    if attack is not None:
        problems += check_attack(attack)
    trainer: TrainerConfig | None = getattr(config, "trainer", None)
    if trainer is not None and trainer.accumulate > trainer.batch_size:
        problems.append(f"trainer.accumulate={trainer.accumulate} is more than trainer.batch_size={trainer.batch_size}; lower it")
    if trainer is not None and trainer.devices > trainer.batch_size:
        problems.append(f"trainer.devices={trainer.devices} is more than trainer.batch_size={trainer.batch_size}; lower it")
    return problems


def check_finetuning(config: Any) -> list[str]:
    stage: FinetuneStageConfig = config.finetune
    student: ModelConfig = config.student
    problems = []
    if stage.stages != FinetuneStageConfig.stages and stage.train != "last":
        problems.append(f"finetune.stages={stage.stages} works with finetune.train=last only")
    if stage.lora != LoraConfig() and stage.train != "lora":
        changed = next(entry.name for entry in fields(LoraConfig) if getattr(stage.lora, entry.name) != entry.default)
        problems.append(f"finetune.lora.{changed}={getattr(stage.lora, changed)} works with finetune.train=lora only")
    if stage.adversarial and config.attack.name == "none":
        problems.append("finetune.adversarial=true trains on attacked images: choose an attack, as attack=pgd")
    ready = student.checkpoint or student.pretrained or student.name == "recorded"
    if stage.train != "all" and stage.epochs and not ready and not (hasattr(config, "distill") and config.distill.epochs):
        problems.append(
            f"finetune.train={stage.train} freezes weights that are random: set student.checkpoint=<run folder or file> or student.pretrained=true"
        )
    return problems


def check_shots(dataset: DatasetConfig) -> list[str]:
    if dataset.shots is None:
        return []
    problems = []
    if dataset.subset is not None:
        problems.append(f"dataset.shots={dataset.shots} and dataset.subset={dataset.subset} both say how many images; give one of them")
    if not dataset.labels:
        problems.append(f"dataset.shots={dataset.shots} counts labels, and dataset.labels=false; use dataset.subset=N")
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


def check_ensemble(teacher: TeacherConfig) -> list[str]:
    if teacher.name != ENSEMBLE:
        none = TeacherConfig()
        given = [name for name in ("members", "combine", "weights", "temperature") if getattr(teacher, name) != getattr(none, name)]
        return [f"teacher.{name} belongs to teacher=ensemble, and teacher={teacher.name}: leave one of them out" for name in given]
    if not teacher.members:
        return ["teacher=ensemble has no members: name some, as in teacher.members.a=resnet20 teacher.members.b=vgg8"]
    problems, first = [], next(iter(teacher.members))
    for entry in fields(ModelConfig)[1:]:
        value = getattr(teacher, entry.name)
        if value != getattr(ModelConfig(), entry.name):
            problems.append(f"teacher.{entry.name}={value}: an ensemble has none of its own; set teacher.members.{first}.{entry.name}")
    for name, member in teacher.members.items():
        problems += check_model(f"teacher.members.{name}", member)
    return problems + check_member_weights(teacher)


def check_member_weights(teacher: TeacherConfig) -> list[str]:
    if teacher.weights and teacher.combine != "fixed":
        return [f"teacher.weights are for teacher.combine=fixed, and teacher.combine={teacher.combine}: leave one of them out"]
    members, problems = ", ".join(teacher.members), []
    for name, weight in teacher.weights.items():
        if name not in teacher.members:
            problems.append(f"teacher.weights.{name}={weight}: there is no member {name}; members: {members}")
        if weight < 0:
            problems.append(f"teacher.weights.{name}={weight} must be >= 0")
    if not any(teacher.weights.get(name, 1.0) for name in teacher.members):
        problems.append("teacher.weights: all weights are zero, so nobody teaches; give a member a weight > 0")
    return problems


def check_attack(attack: AttackConfig) -> list[str]:
    if 0 < attack.eps < attack.step <= 1 and attack.steps > 1:
        return [
            f"attack.step={attack.step:.6g} is more than attack.eps={attack.eps:.6g}, the largest change that {attack.steps} steps may add up to: "
            f"are they swapped? pass attack.step={attack.eps / 4:.3g}"
        ]
    return []


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
        return f"{key}={value} must be <= {rules['high']}" + (f": {rules['unit']}" if rules.get("unit") else "")
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
