"""The typed configuration of the commands that only tell what there is: models, losses, methods, strategies, and this machine. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from distillctl.config.fields import number, option, value


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
class StrategiesConfig(OptionsConfig):
    """`distillctl strategies`."""


@dataclass
class DoctorConfig:
    """`distillctl doctor`: what this machine can do."""

    debug: bool = value(False, decides="words")
    """show tracebacks"""
