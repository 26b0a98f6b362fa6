"""The typed configuration of each command: every scalar of our own, its range, and what it decides. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from distillctl.config.data import DatasetConfig
from distillctl.config.deploy import FORMATS, BudgetConfig, ExportStepConfig, PruneConfig, QuantizeConfig
from distillctl.config.fields import branch, number, option, value
from distillctl.config.lifelong import TASKS, LifelongStageConfig, MemoryConfig
from distillctl.config.listings import DoctorConfig, LossesConfig, MethodsConfig, ModelsConfig, StrategiesConfig
from distillctl.config.models import ModelConfig, TeacherConfig
from distillctl.config.stream import StreamStageConfig
from distillctl.config.training import (
    AttackConfig,
    FinetuneStageConfig,
    PartStageConfig,
    PretrainStageConfig,
    StageConfig,
    TrackerConfig,
    TrainerConfig,
)


@dataclass
class RunConfig:
    """What every command reads that leaves models, and measures them."""

    seed: int = number(0, decides="answers", low=0, high=2**32 - 1)
    """of weights, order, augmentation and dropout"""
    dataset: DatasetConfig = branch(DatasetConfig, decides="answers")
    trainer: TrainerConfig = branch(TrainerConfig, decides="weights")
    tracker: TrackerConfig = branch(TrackerConfig, decides="words")
    objective: Any = value(None, decides="words")
    """what a sweeper is told: a figure of the validation split or a cost, or a list of them; null: val_top1, without labels val_agreement"""
    resume: Optional[str] = value(None, decides="cost")
    """the folder of a run to go on with"""
    debug: bool = value(False, decides="words")
    """show tracebacks"""


@dataclass
class FitConfig(RunConfig):
    """What every command that trains reads."""

    loss: dict[str, Any] = branch(dict, decides="weights")
    """the terms that are minimised, a name each: loss.kd.weight, loss.kd.temperature; options: distillctl losses"""
    optimizer: dict[str, Any] = branch(dict, decides="weights")
    """its class and arguments: optimizer.lr, optimizer.weight_decay"""
    schedule: dict[str, Any] = branch(dict, decides="weights")
    """how the learning rate moves over a stage: schedule.warmup_epochs"""


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
    distill: PartStageConfig = branch(PartStageConfig, decides="weights")
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
class Deploys:
    """What a command reads that makes a file of a student that runs elsewhere."""

    quantize: QuantizeConfig = branch(QuantizeConfig, decides="weights")
    export: ExportStepConfig = branch(ExportStepConfig, decides="weights")


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
class TrainConfig(Deploys, Finetunes, Distils, Pretrains, FitConfig):
    """`distillctl train`: all stages in a row, and the same student alone beside them."""

    pretrain: PretrainStageConfig = branch(PretrainStageConfig, decides="weights")
    prune: PruneConfig = branch(PruneConfig, decides="weights")
    baseline: bool = value(True, decides="weights")
    """train the same student without a teacher too, as the row alone"""


@dataclass
class CompressConfig(Deploys, Finetunes, Distils, FitConfig):
    """`distillctl compress`: a student that is ready made smaller, and trained again by a teacher or by labels."""

    checkpoint: Optional[str] = value(None, decides="weights", path=True)
    """short for student.checkpoint"""
    prune: PruneConfig = branch(PruneConfig, decides="weights")
    budget: BudgetConfig = branch(BudgetConfig, decides="weights")
    baseline: bool = value(False, decides="weights")
    """train the net that is left from fresh weights too, as the row pruned alone"""


@dataclass
class ExportConfig(Deploys, RunConfig):
    """`distillctl export`: a model that is ready as a file for another runtime."""

    checkpoint: str = value(MISSING, decides="weights", path=True)
    """what is exported: a run's folder, a stage's folder, or a file"""
    format: Optional[str] = option(None, *FORMATS, decides="weights")
    """short for export.format"""
    verify: Optional[str] = value(None, decides="weights", path=True)
    """a file that is there already, which is compared with the checkpoint; nothing is written"""
    model: ModelConfig = branch(ModelConfig, decides="weights")


@dataclass
class LifelongConfig(FitConfig):
    """`distillctl lifelong`: a student that learns tasks one after another."""

    student: ModelConfig = branch(ModelConfig, decides="weights")
    teacher: TeacherConfig = branch(TeacherConfig, decides="answers")
    tasks: Any = value(TASKS, decides="weights")
    """into how many tasks the classes are divided, or the classes of each: tasks=[[cat,dog],[ship,truck]]"""
    strategy: dict[str, Any] = branch(dict, decides="weights")
    """how earlier tasks are not forgotten; options: distillctl strategies"""
    memory: MemoryConfig = branch(MemoryConfig, decides="weights")
    lifelong: LifelongStageConfig = branch(LifelongStageConfig, decides="weights")


@dataclass
class StreamConfig(FitConfig):
    """`distillctl stream`: a student that learns samples once, in the order of time."""

    student: ModelConfig = branch(ModelConfig, decides="weights")
    teacher: TeacherConfig = branch(TeacherConfig, decides="answers")
    memory: MemoryConfig = branch(MemoryConfig, decides="weights")
    stream: StreamStageConfig = branch(StreamStageConfig, decides="weights")
    action: str = option("run", "run", "rollback", "history", decides="cost")
    """learn a stream, put an older model back into its place, or show what was deployed when"""
    folder: Optional[str] = value(None, decides="cost", path=True)
    """of rollback and history: the folder of the run"""
    version: Optional[int] = number(None, decides="cost", low=1)
    """of rollback: which model; null: the one that was deployed before"""


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
    corruptions: Any = value(False, decides="answers")
    """accuracy on corrupted images too: true for all ten kinds, or a list, as in corruptions=[gaussian_noise,fog]"""
    corruption_severities: Optional[list[int]] = value(None, decides="answers")
    """which of the severities 1 to 5; null: all five"""
    cost: bool = value(False, decides="cost")
    """measure the file: latency, throughput, peak memory, size"""
    cost_batch: int = number(32, decides="cost", low=1)
    """samples at once, of which throughput and peak memory are measured"""
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
class CachesConfig(DistillConfig):
    """`distillctl cache`: the kept answers of teachers. The keys of `distill` say of which teacher to which views."""

    action: str = option("list", "list", "verify", "prune", "plan", "fill", "export", decides="cost")
    """what to do with the kept answers"""
    to: Optional[str] = value(None, decides="cost", path=True)
    """of export: the file that is written, for teacher=answers; its suffix says how: .csv, .tsv, .jsonl, .parquet or .npz"""
    view: Optional[int] = number(None, decides="answers", low=0)
    """of export: the view whose answers are written, from 0; null: the mean over all, of their probabilities"""
    dir: Optional[str] = value(None, decides="cost", path=True)
    """short for teacher.cache.dir"""
    views: Optional[int] = number(None, decides="answers", low=1)
    """to plan for or to fill; null: dataset.views"""
    older_than_days: Optional[float] = number(None, decides="cost", low=0)
    """what prune removes: not used for so long"""
    all: bool = value(False, decides="cost")
    """prune removes everything"""


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "distill": DistillConfig,
    "finetune": FinetuneConfig,
    "compress": CompressConfig,
    "export": ExportConfig,
    "lifelong": LifelongConfig,
    "stream": StreamConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "models": ModelsConfig,
    "losses": LossesConfig,
    "methods": MethodsConfig,
    "strategies": StrategiesConfig,
    "cache": CachesConfig,
    "doctor": DoctorConfig,
}
