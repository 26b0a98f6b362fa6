"""Run an ONNX model in onnxruntime, on one thread of the CPU: equal inputs give equal answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Union

import numpy as np
import torch
from torch import Tensor

from distillctl.compress.quantize.graph import LOGITS, Model
from distillctl.compress.quantize.libraries import onnxruntime
from distillctl.compress.quantize.samples import Samples, batches
from distillctl.formats.onnx import opened, session_of

Answer = Callable[[np.ndarray], np.ndarray]  # a batch as the file's input takes it -> logits float32 [n, K]


def answer_of(source: Union[Path, Model]) -> Answer:
    """Logits of a file, or of a model that is in memory. Raises CheckpointError where onnxruntime cannot run it."""
    onnxruntime()
    session = opened(source, threads=1) if isinstance(source, Path) else session_of(source.SerializeToString(), "the model")
    (entry,) = session.get_inputs()

    def answer(batch: np.ndarray) -> np.ndarray:
        return session.run([LOGITS], {entry.name: batch})[0]

    return answer


def logits_of(answer: Answer, samples: Samples) -> Tensor:
    """float32 [N, K]."""
    return torch.cat([torch.from_numpy(np.asarray(answer(batch), dtype=np.float32)) for batch in batches(samples)])
