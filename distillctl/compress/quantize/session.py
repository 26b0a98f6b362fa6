"""Run an ONNX model in onnxruntime, on one thread of the CPU: equal inputs give equal answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from distillctl.compress.quantize.graph import LOGITS, Model
from distillctl.compress.quantize.libraries import onnxruntime
from distillctl.compress.quantize.samples import Samples, batches
from distillctl.errors import CheckpointError, first_line

Answer = Callable[[np.ndarray], np.ndarray]  # a batch as the file's input takes it -> logits float32 [n, K]
ERRORS_ALONE = 3  # of onnxruntime's log


def options() -> Any:
    found = onnxruntime().SessionOptions()
    found.intra_op_num_threads = found.inter_op_num_threads = 1
    found.log_severity_level = ERRORS_ALONE
    return found


def answer_of(source: Union[Path, Model]) -> Answer:
    """Logits of a file, or of a model that is in memory. Raises CheckpointError where onnxruntime cannot run it."""
    content = str(source) if isinstance(source, Path) else source.SerializeToString()
    try:
        session = onnxruntime().InferenceSession(content, options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, one a status code
        raise CheckpointError(
            f"{source if isinstance(source, Path) else 'the model'}: onnxruntime cannot run it: {first_line(error)}"
        ) from None
    (entry,) = session.get_inputs()

    def answer(batch: np.ndarray) -> np.ndarray:
        return session.run([LOGITS], {entry.name: batch})[0]

    return answer


def logits_of(answer: Answer, samples: Samples) -> Tensor:
    """float32 [N, K]."""
    return torch.cat([torch.from_numpy(np.asarray(answer(batch), dtype=np.float32)) for batch in batches(samples)])
