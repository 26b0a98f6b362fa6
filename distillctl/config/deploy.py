"""What is said of the way from a trained student to a file that runs: pruning, quantising, exporting. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from distillctl.config.fields import AUTO, number, option, value

NO_LAYERS = "none"

FORMATS = ("onnx", "torch_export", "openvino", "litert", "executorch", "coreml", "web")


@dataclass
class PruneConfig:
    """What is cut out of a net."""

    name: str = option("none", "none", "magnitude", "taylor", "bn_scale", "unstructured", decides="weights")
    """what is cut first, which the group sets: channels by their weights, by the loss that they make, by their batch norm's scale, or single weights"""
    ratio: float = number(0.5, decides="weights", above=0, high=0.99)
    """share of channels, or of single weights, that is cut"""
    target_macs: Optional[float] = number(None, decides="weights", above=0)
    """cut until so many MACs are left: a share where it is 1 or less, else a count; null: by ratio"""
    scope: str = option("global", "global", "layer", decides="weights")
    """compare channels of the whole net, or cut the same share of every layer"""
    steps: int = number(1, decides="weights", low=1, high=100)
    """in how many steps, with training behind each"""
    samples: int = number(256, decides="weights", low=1)
    """training images that taylor looks at"""


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


@dataclass
class ExportStepConfig:
    """How a model is written for another runtime, and when the file is right."""

    format: str = option("none", "none", *FORMATS, decides="weights")
    """the kind of file"""
    preprocess: str = option("inside", "inside", "beside", decides="weights")
    """inside: the file takes images as they are; beside: what the net takes, and a JSON file says how that is made"""
    tolerance: float = number(1e-3, decides="weights", above=0)
    """the largest difference of a logit from that of the model it was made from, beyond which a file is refused"""
    opset: Optional[int] = number(None, decides="weights", low=1)
    """of ONNX; null: 20"""
    samples: int = number(256, decides="weights", low=1)
    """validation images that a file is compared on"""
    web_runtime: Optional[str] = value(None, decides="cost", path=True)
    """with format=web: the folder of onnxruntime-web, as node_modules/onnxruntime-web"""


@dataclass
class BudgetConfig:
    """What the file has to meet that `compress` looks for."""

    latency_ms: Optional[float] = number(None, decides="weights", above=0)
    """milliseconds of an answer to one image, on one thread of this machine"""
    size_mb: Optional[float] = number(None, decides="weights", above=0)
    """megabytes of the file"""
    macs: Optional[float] = number(None, decides="weights", above=0)
    """multiply-accumulates of an answer; a share of the net's own where it is 1 or less"""
    max_drop: float = number(0.01, decides="weights", low=0, high=1)
    """the most accuracy that may be lost on the validation split, as a share"""
