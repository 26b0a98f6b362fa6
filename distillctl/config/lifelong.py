"""What is said of learning over time: the tasks of a sequence, what is kept of them, who moves on. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from distillctl.config.fields import number, option
from distillctl.config.training import StageConfig

BESIDE = ("alone", "sgd", "joint")  # what a strategy can be compared with in the same run


@dataclass
class LifelongStageConfig(StageConfig):
    """The tasks of a sequence, each learnt for `epochs`."""

    order_seed: Optional[int] = number(0, decides="weights", low=0, high=2**32 - 1)
    """what the order of the classes is drawn by; null: as the data set has them"""
    first: Optional[int] = number(None, decides="weights", low=1)
    """classes of the first task, the others sharing what is left; null: as many as the others"""
    folders: list[str] = field(default_factory=list, metadata={"decides": "answers"})
    """a folder of images for each task, in the place of classes of one set"""
    head: str = option("full", "full", "growing", decides="weights")
    """full: outputs for all classes from the start; growing: for those that have come"""
    update: str = option("student", "student", "both", decides="weights")
    """both: a larger teacher learns each task first, and teaches the student"""
    beside: list[str] = field(default_factory=lambda: list(BESIDE), metadata={"decides": "weights"})
    """what is trained beside the strategy: alone (without the teacher), sgd (the floor), joint (the ceiling)"""


@dataclass
class MemoryConfig:
    """Samples of earlier tasks that are kept, of strategies that replay."""

    size: int = number(200, decides="weights", low=1)
    """samples that are kept, of all classes together"""
    batch_size: Optional[int] = number(None, decides="weights", low=1)
    """kept samples that a step learns beside the new ones; null: as many as trainer.batch_size"""
    select: Optional[str] = option(None, "reservoir", "balanced", decides="weights")
    """which samples stay; null: reservoir, and by herding where the strategy says so"""


TASKS: Any = 5  # where nobody says how many
