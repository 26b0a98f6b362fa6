"""What is said of a trained student's way to a file that runs: how it is quantised. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillctl.config.fields import AUTO, number, option, value

NO_LAYERS = "none"


@dataclass
class QuantizeConfig:
    """How a file is brought to fewer bits, and what it must still answer to be taken."""

    name: str = option(
        "none",
        *("none", "auto", "static", "dynamic", "qat", "fp16", "bf16", "int8_weights", "int4_weights", "openvino", "litert"),
        decides="weights",
    )
    """the quantiser, which the group sets; auto: the fastest of those here that answers like the fp32 file"""
    calibration: str = option("minmax", "minmax", "entropy", "percentile", decides="weights")
    """how a tensor's range is taken from what it holds over the calibration images"""
    samples: int = number(256, decides="weights", low=1)
    """training images that ranges are taken from"""
    max_drop: float = number(0.01, decides="weights", low=0, high=1, unit="a share of the validation images, where 0.01 is one point")
    """the most validation accuracy that may be lost"""
    min_agreement: float = number(0.99, decides="weights", low=0, high=1, unit="a share of the validation images")
    """the share of validation images that have to be answered as the fp32 file does"""
    keep_float: Any = value(AUTO, decides="weights")
    """nodes that stay in float: auto finds those that hurt, none, or a list of their names in the file"""
    per_channel: bool = value(True, decides="weights")
    """a scale for each output channel of a weight rather than one for all"""


def kept_names(keep_float: Any) -> list[str] | None:
    """The nodes that `quantize.keep_float` names; None where they are to be found. Raises ValueError for what is neither a word nor a list of names."""
    if keep_float == AUTO:
        return None
    if keep_float is None or keep_float == NO_LAYERS:
        return []
    if not isinstance(keep_float, (list, tuple)) or not all(isinstance(name, str) and name for name in keep_float):
        raise ValueError(f"quantize.keep_float={keep_float}: must be auto, none or a list of the names of nodes")
    return list(keep_float)
