"""Which values each tensor of a net takes: what a scale and a zero point are made of."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.compress.quantize.graph import Model, net_nodes
from distillctl.compress.quantize.libraries import quantization
from distillctl.errors import ConfigError, DataError, did_you_mean
from distillctl.formats.onnx import session_of

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


@dataclass(frozen=True)
class Ranges:
    """bounds: of each tensor, by its name in the graph, the lowest and the highest value that its 8 bits stand for."""

    method: str
    samples: int
    bounds: Mapping[str, tuple[float, float]]

    def as_tensors_data(self) -> Any:
        """The same for onnxruntime's quantisers."""
        calibrate = quantization().calibrate
        entries = {
            name: calibrate.TensorData(lowest=np.array(low, dtype=np.float32), highest=np.array(high, dtype=np.float32))
            for name, (low, high) in self.bounds.items()
        }
        return calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, entries)


def calibrate(model: Model, samples: Sequence[np.ndarray], method: str = "minmax") -> Ranges:
    """Ranges of the net's tensors over `samples`, batches as the model's input takes them (`samples.calibrating` gives such).

    minmax: the lowest and highest value seen; percentile: without the outermost 0.001 %; entropy: the range whose 8 bits tell most of the
    distribution (Migacz 2017, "8-bit inference with TensorRT"). All three are onnxruntime's, with its bins. Raises DataError for values
    that are not finite.
    """
    if method not in METHODS:
        raise ConfigError(f"quantize.calibration={method}: {did_you_mean(method, METHODS)}")
    with tempfile.TemporaryDirectory(prefix="distillctl-") as folder, contextlib.redirect_stdout(None):  # it prints how far it is
        observer = observer_of(model, method, Path(folder))
        name = model.graph.input[0].name
        for batch in samples:
            observer.collect_data(Once({name: batch}))
        found = observer.compute_data().items()
    bounds = {tensor: tuple(np.asarray(bound).item() for bound in data.range_value) for tensor, data in sorted(found)}
    for tensor, bound in bounds.items():
        if not np.isfinite(bound).all():
            raise DataError(f"calibration: {tensor} takes values that are not finite, so it has no range in 8 bits")
    return Ranges(method, sum(map(len, samples)), bounds)


class Once:
    """One batch, as onnxruntime's calibration reads them: to collect one at a time bounds what is held in memory."""

    def __init__(self, feed: dict[str, np.ndarray]):
        self.feed: dict[str, np.ndarray] | None = feed

    def get_next(self) -> dict[str, np.ndarray] | None:
        feed, self.feed = self.feed, None
        return feed


def observer_of(model: Model, method: str, folder: Path) -> Any:
    """onnxruntime's calibrator of the net's tensors alone: an image of any size before it is resized has no part in the net."""
    calibration = quantization().calibrate
    known = {name for node in net_nodes(model) for name in (*node.input, *node.output)}

    class OfTheNet:
        def select_tensors_to_calibrate(self, graph: Model) -> Any:
            tensors, infos = super().select_tensors_to_calibrate(graph)  # type: ignore[misc]
            return sorted(tensors & known), infos

        def create_inference_session(self) -> None:
            content = Path(self.augmented_model_path).read_bytes()  # type: ignore[attr-defined]
            self.infer_session = session_of(content, "the model", optimised=False)  # every tensor is to be seen

    kind = type("Observer", (OfTheNet, getattr(calibration, f"{METHODS[method]}Calibrater")), {})
    source = folder / "model.onnx"
    source.write_bytes(model.SerializeToString())
    observer = kind(source, augmented_model_path=str(folder / "augmented.onnx"))
    observer.augment_graph()
    observer.create_inference_session()
    return observer
