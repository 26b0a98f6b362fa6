"""The typed configuration: every scalar of our own, its range, and what it decides. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from distillctl.config.fields import branch, number, option, value


@dataclass
class ModelConfig:
    """An architecture and where its weights come from; the teacher and the student are each one of these."""

    name: str = value(MISSING, decides="weights")  # "recorded": as the checkpoint says
    source: str = option("auto", "auto", "cifar", "torchvision", "timm", "own", decides="weights")
    _target_: Optional[str] = value(None, decides="weights")  # one's own class, where the source is "own"
    pretrained: bool = value(False, decides="weights")
    checkpoint: Optional[str] = value(None, decides="weights", path=True)
    new_head: bool = value(False, decides="weights")
    stem: str = option("auto", "auto", "small", "large", decides="weights")
    image_size: Optional[int] = number(None, decides="weights", low=1)
    args: dict[str, Any] = branch(dict, decides="weights")
    ignore_class_names: bool = value(False, decides="weights")


ENSEMBLE = "ensemble"  # the teacher that is several


@dataclass
class MemberConfig(ModelConfig):
    """One of several teachers; its checkpoint alone is enough."""

    name: str = value("recorded", decides="weights")


@dataclass
class CacheConfig:
    """Answers of the teacher that are kept on the disk, for views that come again."""

    mode: str = option("auto", "off", "auto", "fill", "require", decides="answers")
    dir: Optional[str] = value(None, decides="cost", path=True)  # null: $DISTILLCTL_CACHE, else outputs/.cache
    dtype: str = option("fp16", "fp16", "fp32", decides="answers")
    # of the features that are read: vectors [B, C]; all: maps and tokens too
    features: str = option("vectors", "vectors", "none", "all", decides="answers")
    top_k: Optional[int] = number(None, decides="answers", low=1)  # classes; null: all, and of more than 256 the 16 likeliest
    trust_group: bool = value(False, decides="cost")  # in a folder that is shared: believe what other users wrote, answers and teachers
    shared: bool = value(False, decides="answers")  # other runs see the same views and have this teacher; set in a sweep whose jobs do


@dataclass
class TeacherConfig(ModelConfig):
    """One model, or with teacher=ensemble several, and how their answers become one."""

    members: dict[str, Any] = branch(dict, decides="answers")  # each a MemberConfig once the config is typed
    combine: str = option(
        *("mean_probability", "mean_probability", "mean_logit", "mean_loss", "confidence", "entropy", "fixed"), decides="answers"
    )
    weights: dict[str, float] = branch(dict, decides="answers")  # of members, for combine=fixed; 1 for those that are not named
    temperature: Optional[float] = number(None, decides="answers", above=0)  # at which probabilities are mixed; null: that of the loss
    fold_batchnorm: bool = value(True, decides="answers")  # into the convolutions before it: faster, the same answers up to rounding
    micro_batch: Optional[int] = number(None, decides="answers", low=1)  # images that it answers at once; null: a whole batch
    cache: CacheConfig = branch(CacheConfig, decides="answers")


@dataclass
class AugmentConfig:
    """How a training image becomes a view of itself; everything off means the image as it is."""

    crop: str = option("pad", "none", "pad", "resized", decides="answers")
    pad: Optional[int] = number(None, decides="answers", low=0)  # pixels; null: an eighth of the image
    flip: float = number(0.5, decides="answers", low=0, high=1)
    policy: str = option("none", "none", "randaugment", "trivialaugment", decides="answers")
    num_ops: int = number(2, decides="answers", low=1)
    magnitude: int = number(9, decides="answers", low=0, high=30)
    erasing: float = number(0.0, decides="answers", low=0, high=1)
    mixup: float = number(0.0, decides="answers", low=0)
    cutmix: float = number(0.0, decides="answers", low=0)


@dataclass
class DatasetConfig:
    """What any kind of data has: where it is, how it is split, how many views of it there are."""

    name: str = value(MISSING, decides="answers")
    root: Optional[str] = value(None, decides="cost", path=True)  # its fingerprint says what this leads to
    download: bool = value(True, decides="cost")
    subset: Optional[int] = number(None, decides="answers", low=1)
    shots: Optional[int] = number(None, decides="answers", low=1)  # training images a class
    # how classes of very different size are evened out: as many samples of each in an epoch, or labels that weigh by class
    balance: str = option("none", "none", "oversample", "class_weights", decides="answers")
    labels: bool = value(True, decides="answers")  # false: the training images have none, or they are not looked at
    val_fraction: float = number(0.1, decides="answers", above=0, high=0.5)
    test_fraction: float = number(0.2, decides="answers", above=0, high=0.5)
    split_seed: int = number(0, decides="answers", low=0, high=2**32 - 1)
    view_seed: Optional[int] = number(None, decides="answers", low=0, high=2**32 - 1)
    views: Optional[int] = number(None, decides="answers", low=1)  # of each image, which epochs take in turn; null: a new one each epoch
    workers: Optional[int] = number(None, decides="cost", low=0)
    timeout_s: int = number(300, decides="cost", low=1)


@dataclass
class ImageSetConfig(DatasetConfig):
    """An image set, and how it is read and augmented."""

    image_size: Optional[int] = number(None, decides="answers", low=1, high=4096)
    on_bad_image: str = option("error", "error", "skip", decides="answers")
    max_pixels: int = number(50_000_000, decides="answers", low=1)
    in_memory: str = option("auto", "auto", "always", "never", decides="answers")
    augment: AugmentConfig = branch(AugmentConfig, decides="answers")


@dataclass
class AttackConfig:
    """The worst small change of an image: what a method trains against, and what robust accuracy is measured under."""

    name: str = option("none", "none", "pgd", decides="weights")
    eps: float = number(  # the largest change of a value
        8 / 255, decides="weights", above=0, high=1, unit="images are in [0, 1], where 8 of 255 is 0.0314"
    )
    step: float = number(2 / 255, decides="weights", above=0, high=1, unit="images are in [0, 1], where 2 of 255 is 0.00784")
    steps: int = number(10, decides="weights", low=1)  # while training
    eval_steps: int = number(20, decides="weights", low=1)  # while measuring
    random_start: bool = value(True, decides="weights")


@dataclass
class StageConfig:
    """One training stage; its learning rate is `optimizer.lr` times `lr_scale`."""

    epochs: int = number(0, decides="weights", low=0)
    lr_scale: float = number(1.0, decides="weights", above=0)


@dataclass
class PretrainStageConfig(StageConfig):
    """The teacher's stage, which is skipped where the same one was trained before."""

    reuse: bool = value(True, decides="cost")


@dataclass
class LoraConfig:
    """Low-rank adapters: W x + (alpha / rank) B A x, dropout before A."""

    rank: int = number(8, decides="weights", low=1)
    alpha: int = number(16, decides="weights", low=1)
    dropout: float = number(0.0, decides="weights", low=0, high=0.9)


@dataclass
class FinetuneStageConfig(StageConfig):
    """A stage that may train a part of the model alone, and its early layers slower than its late ones."""

    train: str = option("all", "all", "head", "last", "lora", decides="weights")
    stages: int = number(1, decides="weights", low=1)  # with train=last: how many before the head
    # what the learning rate is multiplied by at each stage from the head
    layer_decay: float = number(1.0, decides="weights", above=0, high=1)
    lora: LoraConfig = branch(LoraConfig, decides="weights")
    adversarial: bool = value(False, decides="weights")  # on images that `attack` has changed


@dataclass
class TrainerConfig:
    """The engine: where and how the steps are computed."""

    batch_size: int = number(128, decides="answers", low=1)
    device: str = value("auto", decides="rounding")
    devices: int = number(1, decides="rounding", low=1)
    precision: str = option("auto", "auto", "fp32", "bf16", "fp16", decides="answers")
    accumulate: int = number(1, decides="weights", low=1)
    clip_norm: Optional[float] = number(None, decides="weights", above=0)
    ema_decay: float = number(0.0, decides="weights", low=0, high=1)
    compile: bool = value(False, decides="answers")
    channels_last: bool = value(True, decides="answers")
    sync_batchnorm: bool = value(True, decides="weights")
    threads: Optional[int] = number(None, decides="rounding", low=1)
    select: str = option("best", "best", "last", decides="weights")
    # what the best epoch is chosen by; null: val_top1, without labels val_agreement
    select_by: Optional[str] = option(None, "val_top1", "val_macro_f1", "val_nll", "val_ece", "val_agreement", "val_kl", decides="weights")
    early_stopping_epochs: Optional[int] = number(None, decides="weights", low=1)
    log_every: int = number(20, decides="words", low=1)
    save_every_s: float = number(300.0, decides="cost", above=0)
    timeout_s: int = number(600, decides="cost", low=1)


@dataclass
class TrackerConfig:
    """Where metrics go besides metrics.jsonl."""

    name: str = option("none", "none", "tensorboard", "wandb", decides="words")
    project: str = value("distillctl", decides="words")


@dataclass
class FitConfig:
    """What every command that trains reads."""

    seed: int = number(0, decides="answers", low=0, high=2**32 - 1)
    dataset: DatasetConfig = branch(DatasetConfig, decides="answers")
    loss: dict[str, Any] = branch(dict, decides="weights")
    optimizer: dict[str, Any] = branch(dict, decides="weights")
    schedule: dict[str, Any] = branch(dict, decides="weights")
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    tracker: TrackerConfig = branch(TrackerConfig, decides="words")
    resume: Optional[str] = value(None, decides="cost")
    debug: bool = value(False, decides="words")


@dataclass
class Pretrains:
    """What a command reads that trains a teacher."""

    teacher: TeacherConfig = branch(TeacherConfig, decides="answers")
    pretrain: StageConfig = branch(StageConfig, decides="weights")


@dataclass
class Distils:
    """What a command reads that trains a student by a teacher."""

    teacher: TeacherConfig = branch(TeacherConfig, decides="answers")
    student: ModelConfig = branch(ModelConfig, decides="weights")
    attack: AttackConfig = branch(AttackConfig, decides="weights")
    method: dict[str, Any] = branch(dict, decides="weights")
    distill: StageConfig = branch(StageConfig, decides="weights")
    assistants: list[str] = branch(list, decides="weights")  # models between teacher and student, from big to small
    generations: int = number(1, decides="weights", low=1)  # of students, each taught by the one before
    ensemble_generations: bool = value(False, decides="weights")  # a row for the mean of all generations


@dataclass
class Finetunes:
    """What a command reads that trains a student by labels once it is ready."""

    student: ModelConfig = branch(ModelConfig, decides="weights")
    attack: AttackConfig = branch(AttackConfig, decides="weights")
    finetune: FinetuneStageConfig = branch(FinetuneStageConfig, decides="weights")


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

    pretrain: PretrainStageConfig = branch(PretrainStageConfig, decides="weights")
    baseline: bool = value(True, decides="weights")


@dataclass
class EvaluateConfig:
    """`distillctl evaluate`: what a checkpoint is worth on a split."""

    checkpoint: str = value(MISSING, decides="answers")
    split: str = option("test", "train", "val", "test", decides="answers")
    model: ModelConfig = branch(ModelConfig, decides="answers")
    teacher: TeacherConfig = branch(TeacherConfig, decides="answers")
    dataset: DatasetConfig = branch(DatasetConfig, decides="answers")
    attack: AttackConfig = branch(AttackConfig, decides="answers")
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    debug: bool = value(False, decides="words")


@dataclass
class PredictConfig:
    """`distillctl predict`: class names and probabilities for images."""

    checkpoint: str = value(MISSING, decides="answers")
    inputs: list[str] = value(MISSING, decides="answers")
    format: str = option("table", "table", "jsonl", "csv", decides="words")
    top_k: int = number(3, decides="words", low=1)
    max_pixels: int = number(50_000_000, decides="answers", low=1)
    model: ModelConfig = branch(ModelConfig, decides="answers")
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    debug: bool = value(False, decides="words")


@dataclass
class ModelsConfig:
    """`distillctl models`: what can be named as a teacher or a student."""

    search: Optional[str] = value(None, decides="words")
    taps: Optional[str] = value(None, decides="words")  # a model, whose places to read features from are listed instead
    source: str = option("auto", "auto", "cifar", "torchvision", "timm", decides="words")
    classes: int = number(10, decides="words", low=2)
    image_size: int = number(32, decides="words", low=1)
    limit: int = number(40, decides="words", low=1)
    debug: bool = value(False, decides="words")


@dataclass
class CachesConfig(DistillConfig):
    """`distillctl cache`: the kept answers of teachers. The keys of `distill` say of which teacher to which views."""

    action: str = option("list", "list", "verify", "prune", "plan", "fill", decides="cost")
    dir: Optional[str] = value(None, decides="cost", path=True)  # short for teacher.cache.dir
    views: Optional[int] = number(None, decides="answers", low=1)  # to plan for or to fill; null: dataset.views
    older_than_days: Optional[float] = number(None, decides="cost", low=0)
    all: bool = value(False, decides="cost")


@dataclass
class DoctorConfig:
    """`distillctl doctor`: what this machine can do."""

    debug: bool = value(False, decides="words")


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

# The schemas of `dataset`, as options of the group dataset/kind. A file in conf/dataset whose data are no images begins with
# `defaults: [override kind@_here_: NAME]`; one that says nothing is an image set.
DATA_KINDS: dict[str, type[DatasetConfig]] = {"images": ImageSetConfig}
