"""What a model answers to a whole split."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distillctl.modes import evaluating
from distillctl.runtime import Runtime
from distillctl.types import Batch


@torch.inference_mode()
def answers(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, K] and targets int64 [N] on the CPU, of all ranks' batches; the model's mode is restored."""
    logits, targets = [], []
    with evaluating(model):
        for batch in batches:
            with runtime.autocast():
                logits.append(model(batch.inputs).logits.float())
            targets.append(batch.targets)
    return runtime.gather(torch.cat(logits).cpu()), runtime.gather(torch.cat(targets).cpu())
