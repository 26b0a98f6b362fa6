"""The typed configuration: every scalar of our own, its range, and what it decides. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from distillctl.config.fields import Count, branch, count, number, option, value


@dataclass
class ModelConfig:
    """An architecture and where its weights come from; the teacher and the student are each one of these."""

    name: str = value(MISSING, decides="weights")
    """the architecture, which the group sets; recorded: what the checkpoint's record says"""
    source: str = option("auto", "auto", "cifar", "torchvision", "timm", "own", decides="weights")
    """whose net of that name is meant"""
    _target_: Optional[str] = value(None, decides="weights")
    """one's own class, where the source is own"""
    pretrained: bool = value(False, decides="weights")
    """begin with the weights that torchvision or timm publish"""
    checkpoint: Optional[str] = value(None, decides="weights", path=True)
    """begin with these weights: a run's folder, a stage's folder, or a file"""
    new_head: bool = value(False, decides="weights")
    """take all but the classifier from the weights, for other classes"""
    stem: str = option("auto", "auto", "small", "large", decides="weights")
    """the net's first layers: small for images under 64 px, large as published; auto: by the images"""
    image_size: Optional[int] = number(None, decides="weights", low=1)
    """pixels that the net is given, where they differ from the data set's"""
    mean: Optional[list[float]] = value(None, decides="weights")
    """what is taken from the three channels of images in [0, 1]; null: as the weights were trained, else as the data set has it"""
    std: Optional[list[float]] = value(None, decides="weights")
    """what they are then divided by; null: as with mean"""
    args: dict[str, Any] = branch(dict, decides="weights")
    """arguments of the net's constructor, as in +student.args.drop_rate=0.1"""
    ignore_class_names: bool = value(False, decides="weights")
    """the weights' classes may be called otherwise than the data set's"""


ENSEMBLE = "ensemble"  # the teacher that is several


@dataclass
class MemberConfig(ModelConfig):
    """One of several teachers; its checkpoint alone is enough."""

    name: str = value("recorded", decides="weights")
    """the architecture; recorded: what the checkpoint's record says"""


@dataclass
class CacheConfig:
    """Answers of the teacher that are kept on the disk, for views that come again."""

    mode: str = option("auto", "off", "auto", "fill", "require", decides="answers")
    """off: ask at every step; auto: keep where views come again; fill: keep whatever is asked; require: read alone, or fail"""
    dir: Optional[str] = value(None, decides="cost", path=True)
    """where answers are kept; null: $DISTILLCTL_CACHE, else outputs/.cache"""
    dtype: str = option("fp16", "fp16", "fp32", decides="answers")
    """the precision of what is kept"""
    features: str = option("vectors", "vectors", "none", "all", decides="answers")
    """which of the features that are read are kept: vectors [B, C], all (maps and tokens too), or none"""
    top_k: Optional[int] = number(None, decides="answers", low=1)
    """classes that are kept of each answer; null: all, and of more than 256 the 16 likeliest"""
    trust_group: bool = value(False, decides="cost")
    """in a folder that is shared: believe what other users wrote, answers and teachers"""
    shared: bool = value(False, decides="answers")
    """other runs see the same views by this teacher; set in a sweep whose jobs do"""


@dataclass
class TeacherConfig(ModelConfig):
    """One model, or with teacher=ensemble several, and how their answers become one."""

    members: dict[str, Any] = branch(dict, decides="answers")
    """with teacher=ensemble: its models by name, as in teacher.members.c=vgg8"""
    combine: str = option(
        *("mean_probability", "mean_probability", "mean_logit", "mean_loss", "confidence", "entropy", "fixed"), decides="answers"
    )
    """how several answers become one"""
    weights: dict[str, float] = branch(dict, decides="answers")
    """of members, for combine=fixed; 1 for those that are not named"""
    temperature: Optional[float] = number(None, decides="answers", above=0)
    """at which probabilities are mixed; null: that of the loss"""
    fold_batchnorm: bool = value(True, decides="answers")
    """fold batch norm into the convolutions before it: faster, the same answers up to rounding"""
    micro_batch: Optional[int] = number(None, decides="answers", low=1)
    """images that the teacher answers at once; null: a whole batch"""
    cache: CacheConfig = branch(CacheConfig, decides="answers")


@dataclass
class AugmentConfig:
    """How a training image becomes a view of itself; everything off means the image as it is."""

    crop: str = option("pad", "none", "pad", "resized", decides="answers")
    """pad: a shifted window; resized: a random part, scaled; none: the image as it is"""
    pad: Optional[int] = number(None, decides="answers", low=0)
    """pixels that the window may be shifted by; null: an eighth of the image"""
    flip: float = number(0.5, decides="answers", low=0, high=1)
    """the probability of a mirrored image"""
    policy: str = option("none", "none", "randaugment", "trivialaugment", decides="answers")
    """random changes of colour and shape"""
    num_ops: int = number(2, decides="answers", low=1)
    """changes an image, of randaugment"""
    magnitude: int = number(9, decides="answers", low=0, high=30)
    """their strength, of randaugment"""
    erasing: float = number(0.0, decides="answers", low=0, high=1)
    """the probability of a black box"""
    mixup: float = number(0.0, decides="answers", low=0)
    """alpha of the Beta distribution that mixing shares are drawn from; 0: none"""
    cutmix: float = number(0.0, decides="answers", low=0)
    """alpha of the area that comes from a second image; 0: none"""


@dataclass
class DatasetConfig:
    """What any kind of data has: where it is, how it is split, how many views of it there are."""

    name: str = value(MISSING, decides="answers")
    """the data set, which the group sets"""
    root: Optional[str] = value(None, decides="cost", path=True)
    """the folder; null: $DISTILLCTL_DATA, else data"""
    download: bool = value(True, decides="cost")
    """fetch what is published and not there yet"""
    subset: Optional[int] = number(None, decides="answers", low=1)
    """training images that are used; null: all"""
    test_subset: Optional[int] = number(None, decides="weights", low=1)
    """test images that are measured on; null: all"""
    shots: Optional[int] = number(None, decides="answers", low=1)
    """training images a class; null: all"""
    balance: str = option("none", "none", "oversample", "class_weights", decides="answers")
    """classes of very different size: none; as many samples of each in an epoch; or labels that weigh by class"""
    labels: bool = value(True, decides="answers")
    """false: training images have no labels, or they are not looked at"""
    val_fraction: float = number(0.1, decides="answers", above=0, high=0.5)
    """the share of the training images that is held out, where there is no validation split"""
    test_fraction: float = number(0.2, decides="answers", above=0, high=0.5)
    """the share that is held out for testing, where there is no test split"""
    split_seed: int = number(0, decides="answers", low=0, high=2**32 - 1)
    """what those shares are drawn by"""
    view_seed: Optional[int] = number(None, decides="answers", low=0, high=2**32 - 1)
    """what augmentation is drawn by; null: the run's seed"""
    views: Optional[int] = number(None, decides="answers", low=1)
    """augmented views of each image, which epochs take in turn; null: a new one each epoch"""
    workers: Optional[int] = number(None, decides="cost", low=0)
    """processes that read and augment; null: by the machine"""
    timeout_s: int = number(300, decides="cost", low=1)
    """seconds after which a worker that says nothing is given up"""


@dataclass
class ImageSetConfig(DatasetConfig):
    """An image set, and how it is read and augmented."""

    image_size: Optional[int] = number(None, decides="answers", low=1, high=4096)
    """pixels of the square that images are brought to; null: as the set has them"""
    on_bad_image: str = option("error", "error", "skip", decides="cost")  # its fingerprint says which are left out
    """an unreadable image ends the run before it trains, or is left out"""
    max_pixels: int = number(50_000_000, decides="cost", low=1)
    """larger images are refused: they may be bombs"""
    in_memory: str = option("auto", "auto", "always", "never", decides="answers")
    """whether images are decoded once and held; auto: where they fit"""
    augment: AugmentConfig = branch(AugmentConfig, decides="answers")


@dataclass
class AttackConfig:
    """The worst small change of an image: what a method trains against, and what robust accuracy is measured under."""

    name: str = option("none", "none", "pgd", decides="weights")
    """the attack, which the group sets"""
    eps: float = number(8 / 255, decides="weights", above=0, high=1, unit="images are in [0, 1], where 8 of 255 is 0.0314")
    """the largest change of a value; images are in [0, 1]"""
    step: float = number(2 / 255, decides="weights", above=0, high=1, unit="images are in [0, 1], where 2 of 255 is 0.00784")
    """the change of a value in one step"""
    steps: int = number(10, decides="weights", low=1)
    """steps of an attack while training"""
    eval_steps: int = number(20, decides="weights", low=1)
    """steps of an attack while measuring"""
    random_start: bool = value(True, decides="weights")
    """begin somewhere within eps rather than at the image"""


@dataclass
class StageConfig:
    """One training stage; its learning rate is `optimizer.lr` times `lr_scale`."""

    epochs: Count = count(decides="weights", low=0)
    """passes over the training images; 0 leaves the stage out; auto: by the size of the data"""
    lr_scale: float = number(1.0, decides="weights", above=0)
    """what optimizer.lr is multiplied by in this stage"""


@dataclass
class PretrainStageConfig(StageConfig):
    """The teacher's stage, which is skipped where the same one was trained before."""

    reuse: bool = value(True, decides="cost")
    """take the same teacher where another run has trained it"""


@dataclass
class LoraConfig:
    """Low-rank adapters: W x + (alpha / rank) B A x, dropout before A."""

    rank: int = number(8, decides="weights", low=1)
    """rank of the low-rank adapters"""
    alpha: int = number(16, decides="weights", low=1)
    """their scale is alpha / rank"""
    dropout: float = number(0.0, decides="weights", low=0, high=0.9)
    """before an adapter"""


@dataclass
class FinetuneStageConfig(StageConfig):
    """A stage that may train a part of the model alone, and its early layers slower than its late ones."""

    train: str = option("all", "all", "head", "last", "lora", decides="weights")
    """which weights learn: all, the head, the last stages, or low-rank adapters"""
    stages: int = number(1, decides="weights", low=1)
    """with train=last: how many stages before the head"""
    layer_decay: float = number(1.0, decides="weights", above=0, high=1)
    """what the learning rate is multiplied by at each stage from the head"""
    lora: LoraConfig = branch(LoraConfig, decides="weights")
    adversarial: bool = value(False, decides="weights")
    """train on images that `attack` has changed"""
    keep: str = option("better", "better", "always", decides="weights")
    """which student is final: the better of before and after this stage, by validation, or always the one after"""


@dataclass
class TrainerConfig:
    """The engine: where and how the steps are computed."""

    batch_size: Count = count(decides="answers", low=1)
    """images in a step, over all devices; auto: by the size of the data"""
    max_steps: Optional[int] = number(None, decides="weights", low=1)
    """optimizer steps of each stage, which then ends; null: as its epochs say"""
    max_minutes: Optional[float] = number(None, decides="weights", above=0)
    """of a whole run, which stops in time to measure and to ship; null: as long as it takes"""
    device: str = value("auto", decides="rounding")
    """auto, cpu, cuda or cuda:N"""
    devices: int = number(1, decides="rounding", low=1)
    """processes, one a device"""
    precision: str = option("auto", "auto", "fp32", "bf16", "fp16", decides="answers")
    """what the nets compute in; auto: bf16 where it is fast"""
    accumulate: int = number(1, decides="weights", low=1)
    """pieces that a batch is computed in, for want of memory"""
    clip_norm: Optional[float] = number(None, decides="weights", above=0)
    """the longest gradient; null: any"""
    ema_decay: float = number(0.0, decides="weights", low=0, high=1)
    """of a moving average of the weights, which then is what counts; 0: none"""
    compile: bool = value(False, decides="answers")
    """torch.compile"""
    channels_last: bool = value(True, decides="answers")
    """memory order of images, faster for convolutions"""
    sync_batchnorm: bool = value(True, decides="weights")
    """batch norm sees the whole batch of all devices"""
    threads: Optional[int] = number(None, decides="rounding", low=1)
    """of PyTorch on a CPU; null: by the machine"""
    select: str = option("best", "best", "last", decides="weights")
    """the epoch whose weights count: the best on validation, or the last"""
    select_by: Optional[str] = option(None, "val_top1", "val_macro_f1", "val_nll", "val_ece", "val_agreement", "val_kl", decides="weights")
    """what the best epoch is chosen by; null: val_top1, without labels val_agreement"""
    early_stopping_epochs: Optional[int] = number(None, decides="weights", low=1)
    """end a stage after so many epochs without a better one; null: never"""
    log_every: int = number(20, decides="words", low=1)
    """steps between two lines of metrics.jsonl"""
    save_every_s: float = number(300.0, decides="cost", above=0)
    """seconds between two checkpoints; each epoch ends with one"""
    timeout_s: int = number(600, decides="cost", low=1)
    """seconds after which a process waits no longer for another"""


@dataclass
class TrackerConfig:
    """Where metrics go besides metrics.jsonl."""

    name: str = option("none", "none", "tensorboard", "wandb", decides="words")
    """where metrics go besides metrics.jsonl"""
    project: str = value("distillctl", decides="words")
    """the name under which a tracker files the run"""


@dataclass
class FitConfig:
    """What every command that trains reads."""

    seed: int = number(0, decides="answers", low=0, high=2**32 - 1)
    """of weights, order, augmentation and dropout"""
    dataset: DatasetConfig = branch(DatasetConfig, decides="answers")
    loss: dict[str, Any] = branch(dict, decides="weights")
    """the terms that are minimised, a name each: loss.kd.weight, loss.kd.temperature; options: distillctl losses"""
    optimizer: dict[str, Any] = branch(dict, decides="weights")
    """its class and arguments: optimizer.lr, optimizer.weight_decay"""
    schedule: dict[str, Any] = branch(dict, decides="weights")
    """how the learning rate moves over a stage: schedule.warmup_epochs"""
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    tracker: TrackerConfig = branch(TrackerConfig, decides="words")
    objective: Any = value(None, decides="words")
    """what a sweeper is told: a figure of the validation split or a cost, or a list of them; null: val_top1, without labels val_agreement"""
    resume: Optional[str] = value(None, decides="cost")
    """the folder of a run to go on with"""
    debug: bool = value(False, decides="words")
    """show tracebacks"""


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
    """who trains and by whom; options: distillctl methods"""
    distill: StageConfig = branch(StageConfig, decides="weights")
    assistants: list[str] = branch(list, decides="weights")
    """models between teacher and student, from big to small"""
    generations: int = number(1, decides="weights", low=1)
    """students in a row, each taught by the one before"""
    ensemble_generations: bool = value(False, decides="weights")
    """a row of the table for the mean of all generations"""


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
    """train the same student without a teacher too, as the row alone"""


@dataclass
class EvaluateConfig:
    """`distillctl evaluate`: what a checkpoint is worth on a split."""

    checkpoint: str = value(MISSING, decides="answers")
    """what is measured: a run's folder, a stage's folder, or a file"""
    split: Optional[str] = option(None, "train", "val", "test", "all", decides="answers")
    """the images that it is measured on; null: test, and all of a folder without training images"""
    model: ModelConfig = branch(ModelConfig, decides="answers")
    teacher: TeacherConfig = branch(TeacherConfig, decides="answers")
    dataset: DatasetConfig = branch(DatasetConfig, decides="answers")
    attack: AttackConfig = branch(AttackConfig, decides="answers")
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    debug: bool = value(False, decides="words")
    """show tracebacks"""


@dataclass
class PredictConfig:
    """`distillctl predict`: class names and probabilities for images."""

    checkpoint: str = value(MISSING, decides="answers")
    """what answers: a run's folder, a stage's folder, or a file"""
    inputs: list[str] = value(MISSING, decides="answers")
    """images, and folders of images"""
    format: str = option("table", "table", "jsonl", "csv", decides="words")
    """how answers are printed"""
    top_k: int = number(3, decides="words", low=1)
    """classes an image"""
    max_pixels: int = number(50_000_000, decides="answers", low=1)
    """larger images are refused: they may be bombs"""
    model: ModelConfig = branch(ModelConfig, decides="answers")
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    debug: bool = value(False, decides="words")
    """show tracebacks"""


@dataclass
class ModelsConfig:
    """`distillctl models`: what can be named as a teacher or a student."""

    search: Optional[str] = value(None, decides="words")
    """a part of a name, or a pattern with *; with taps of a module's path"""
    taps: Optional[str] = value(None, decides="words")
    """a model, whose places to read features from are listed instead"""
    source: str = option("auto", "auto", "cifar", "torchvision", "timm", decides="words")
    """whose models"""
    costs: bool = value(False, decides="words")
    """count parameters and MACs, for which the nets are built"""
    classes: int = number(10, decides="words", low=2)
    """what the costs are counted for"""
    image_size: int = number(32, decides="words", low=1)
    """pixels that the costs are counted for"""
    limit: int = number(40, decides="words", low=1)
    """rows"""
    debug: bool = value(False, decides="words")
    """show tracebacks"""


@dataclass
class OptionsConfig:
    """What a command reads that lists the options of a group."""

    search: Optional[str] = value(None, decides="words")
    """a part of a name, of what it reads, or of what is said of it"""
    debug: bool = value(False, decides="words")
    """show tracebacks"""


@dataclass
class LossesConfig(OptionsConfig):
    """`distillctl losses`."""


@dataclass
class MethodsConfig(OptionsConfig):
    """`distillctl methods`."""


@dataclass
class CachesConfig(DistillConfig):
    """`distillctl cache`: the kept answers of teachers. The keys of `distill` say of which teacher to which views."""

    action: str = option("list", "list", "verify", "prune", "plan", "fill", decides="cost")
    """what to do with the kept answers"""
    dir: Optional[str] = value(None, decides="cost", path=True)
    """short for teacher.cache.dir"""
    views: Optional[int] = number(None, decides="answers", low=1)
    """to plan for or to fill; null: dataset.views"""
    older_than_days: Optional[float] = number(None, decides="cost", low=0)
    """what prune removes: not used for so long"""
    all: bool = value(False, decides="cost")
    """prune removes everything"""


@dataclass
class DoctorConfig:
    """`distillctl doctor`: what this machine can do."""

    debug: bool = value(False, decides="words")
    """show tracebacks"""


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "distill": DistillConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "models": ModelsConfig,
    "losses": LossesConfig,
    "methods": MethodsConfig,
    "cache": CachesConfig,
    "doctor": DoctorConfig,
}

# The schemas of `dataset`, as options of the group dataset/kind. A file in conf/dataset whose data are no images begins with
# `defaults: [override kind@_here_: NAME]`; one that says nothing is an image set.
DATA_KINDS: dict[str, type[DatasetConfig]] = {"images": ImageSetConfig}
