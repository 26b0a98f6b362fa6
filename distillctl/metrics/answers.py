"""What a model answers to a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.modes import evaluating
from distillctl.runtime import Runtime
from distillctl.types import Batch


@torch.inference_mode()
def answers(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, K] and targets int64 [N] on the CPU, of all ranks' batches; the model's mode is restored."""
    logits, targets = own_answers(model, batches, runtime.autocast)
    return runtime.gather(logits), runtime.gather(targets)


@torch.inference_mode()
def own_answers(
    model: nn.Module, batches: Iterable[Batch], precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> tuple[Tensor, Tensor]:
    """The same of this process's batches alone, in fp32 unless told otherwise."""
    logits, targets = [], []
    with evaluating(model):
        for batch in batches:
            with precision():
                logits.append(model(batch.inputs).logits.float())
            targets.append(batch.targets)
    return torch.cat(logits).cpu(), torch.cat(targets).cpu()
