"""What is said of training: its stages, the engine, attacks, trackers. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from distillctl.config.fields import Count, branch, count, number, option, value


@dataclass
class AttackConfig:
    """The worst small change of an image: what a method trains against, and what robust accuracy is measured under."""

    name: str = option("none", "none", "pgd", "autoattack", decides="weights")
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
class PromptConfig:
    """Virtual tokens in front of every text, whose embeddings are learned."""

    tokens: int = number(20, decides="weights", low=1, high=1000)
    """how many there are"""


@dataclass
class PartStageConfig(StageConfig):
    """A stage that may train a part of the model alone, and its early layers slower than its late ones."""

    train: str = option("all", "all", "head", "last", "lora", "prompt", decides="weights")
    """which weights learn: all, the head, the last stages, low-rank adapters and the head, or virtual tokens in front of texts and the head"""
    stages: int = number(1, decides="weights", low=1)
    """with train=last: how many stages before the head"""
    layer_decay: float = number(1.0, decides="weights", above=0, high=1)
    """what the learning rate is multiplied by at each stage from the head"""
    lora: LoraConfig = branch(LoraConfig, decides="weights")
    prompt: PromptConfig = branch(PromptConfig, decides="weights")


@dataclass
class FinetuneStageConfig(PartStageConfig):
    """The stage after distillation, by labels."""

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


LEAST_AT_ONCE = 128  # samples that are measured together, however small the batches of training are


def at_once(trainer: TrainerConfig) -> int:
    """Samples that a command answers together that trains nothing."""
    return trainer.batch_size if isinstance(trainer.batch_size, int) else LEAST_AT_ONCE
