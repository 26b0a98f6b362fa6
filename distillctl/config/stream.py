"""What is said of a stream: where its samples come from, who teaches, when a drift is told, what is deployed. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from distillctl.config.fields import number, option, value

SOURCES = ("dataset", "folders", "csv", "watch")
DETECTORS = ("adwin", "page_hinkley")
GATES = ("difference", "significant")
ALONE = "alone"  # what a student with a teacher is compared with


@dataclass
class StreamStageConfig:
    """One pass over samples in the order of time: each is predicted, then learnt."""

    source: Optional[str] = option(None, *SOURCES, decides="weights")
    """where samples come from; null: of `stream.path` by what lies there, else of the data set"""
    path: Optional[str] = value(None, decides="cost", path=True)
    """a folder of dated folders, a CSV of path,label,time, or a folder that is watched"""
    classes: list[str] = field(default_factory=list, metadata={"decides": "weights"})
    """the classes of what lies in `stream.path`; none: those of the student's checkpoint, else those that are found"""
    samples: Optional[int] = number(None, decides="weights", low=1)
    """how many end the stream; null: all that come"""
    phases: int = number(5, decides="weights", low=1)
    """of a data set: stretches in time, each of classes of its own"""
    drift: str = option("abrupt", "abrupt", "gradual", "none", decides="weights")
    """of a data set: how one stretch follows another; none: all classes from the start"""
    order_seed: int = number(0, decides="weights", low=0, high=2**32 - 1)
    """of a data set: what the order of classes and samples is drawn by"""
    shuffled: list[int] = field(default_factory=list, metadata={"decides": "weights"})
    """of a data set: labels are drawn anew from the first of these positions up to the second, to see what then happens"""
    window: int = number(1000, decides="words", low=1)
    """samples of the windowed accuracy"""
    fading: float = number(0.999, decides="words", above=0, high=1)
    """what the fading accuracy multiplies the past by at each sample"""
    teacher: Optional[str] = option(None, "none", "ema", "student", "model", decides="weights")
    """who teaches: nobody, an average of the student's past, a copy of it, or `teacher`; null: `teacher` where one is named, else ema"""
    taught: Optional[str] = option(None, "all", "memory", decides="weights")
    """of which samples the teacher is asked; null: of kept ones alone where it follows the student, which knows nothing of new ones"""
    ema_decay: float = number(0.999, decides="weights", low=0, high=1)
    """of the average, which follows faster early on"""
    refresh: str = option("never", "never", "every", "drift", decides="weights")
    """when the teacher learns what the stream brought, or is copied anew: never, every so many samples, or when a drift is told"""
    refresh_every: Optional[int] = number(None, decides="weights", low=1)
    """samples from one refresh to the next"""
    refresh_steps: int = number(50, decides="weights", low=1)
    """optimizer steps of a refresh, on the memory and the recent samples"""
    refresh_batch: int = number(64, decides="weights", low=2)
    """samples in such a step"""
    recent: int = number(200, decides="weights", low=1)
    """the last samples that a refresh learns beside the memory"""
    detector: Optional[str] = option(None, *DETECTORS, decides="weights")
    """what tells a drift; null: adwin where refresh=drift, else none"""
    signal: Optional[str] = option(None, "error", "disagreement", "confidence", decides="weights")
    """what it looks at: errors, or without labels answers other than the teacher's, or how unsure the student is; null: the first that there is"""
    forget: bool = value(False, decides="weights")
    """a drift empties the memory"""
    holdout: float = number(0.1, decides="weights", above=0, high=0.5)
    """the share of samples that are never learnt: what a new model is measured on before it is deployed"""
    holdout_size: int = number(200, decides="weights", low=1)
    """the last so many of them count"""
    release_every: Optional[int] = number(500, decides="weights", low=1)
    """samples after which the student is held against the deployed one; null: at the end alone"""
    gate: str = option("difference", *GATES, decides="weights")
    """what refuses a new model: difference: an accuracy below the deployed one's; significant: one so much below that chance alone is no reason"""
    alpha: float = number(0.05, decides="weights", above=0, high=0.5)
    """of gate=significant: how often a model that is no worse may be refused"""
    keep_versions: Optional[int] = number(None, decides="cost", low=2)
    """the last so many released models stay in versions/, with what is deployed and what a rollback would put back; null: all"""
    tolerance: float = number(0.0, decides="weights", low=-1, high=1)
    """of gate=difference: by how much accuracy a new model may be worse and replace the old one all the same; below 0: by how much it has to be better"""
    beside: list[str] = field(default_factory=lambda: [ALONE], metadata={"decides": "weights"})
    """alone: the same student without the teacher, on the same samples"""
    save_every: int = number(100, decides="cost", low=1)
    """batches between two checkpoints"""
    poll_s: float = number(0.5, decides="cost", above=0)
    """seconds between two looks at a watched folder"""
    patience_s: float = number(2.0, decides="cost", low=0)
    """seconds that a batch waits to be full, once its first sample has come to a watched folder"""
    idle_s: Optional[float] = number(None, decides="cost", above=0)
    """seconds without a new sample that end the watch; null: it goes on until it is stopped"""
