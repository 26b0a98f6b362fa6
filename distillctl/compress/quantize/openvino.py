"""OpenVINO in int8, by NNCF after training: ranges of activations are found on a few samples, and layers that need them wide stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillctl import extras
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.formats.exporting import muted
from distillctl.formats.openvino import read, save, told_by
from distillctl.models.shipping import with_precision

NEEDS = ("openvino", "nncf")


def write_openvino(source: Path, target: Path, samples: Sequence[np.ndarray], transformer: bool | None = None) -> Path:
    """The .xml and .bin of a float OpenVINO file, in int8.

    samples: training samples one by one, each a batch of one as the file takes it: uint8 [1, S, S, 3] or float32 [1, 3, S, S].
    transformer: whether its layers are attention, which NNCF treats on their own; None: where there is attention in the graph.
    Raises MachineError where NNCF is not installed, ConfigError without samples, CheckpointError for what is no such file.
    """
    extras.require("quantize=openvino", NEEDS, "openvino")
    if not samples:
        raise ConfigError("quantize.samples: no training sample to find ranges on; give 128 or more")
    model = read(source)
    if is_quantized(model):
        raise CheckpointError(f"{source}: it is quantized already; give the float file that it was made from")
    attention = has_attention(model) if transformer is None else transformer
    metadata = with_precision(told_by(model), "int8")
    try:
        with muted():
            import nncf

            kind = nncf.ModelType.TRANSFORMER if attention else None
            data = nncf.Dataset(list(samples))
            quantized = nncf.quantize(model, data, model_type=kind, subset_size=len(samples), preset=nncf.QuantizationPreset.MIXED)
    except Exception as error:  # whatever NNCF may meet in a graph
        raise CheckpointError(f"{source}: NNCF cannot quantize it ({first_line(error)[:200]})") from None
    save(quantized, target, metadata)
    return target


def has_attention(model: Any) -> bool:
    """Whether anything attends: as one operator, or by a softmax over something else than classes."""
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind == "ScaledDotProductAttention" or (kind in ("Softmax", "SoftMax") and len(node.output(0).partial_shape) > 2):
            return True
    return False


def is_quantized(model: Any) -> bool:
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
