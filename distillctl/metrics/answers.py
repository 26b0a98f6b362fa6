"""What models answer to a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.modes import evaluating
from distillctl.runtime import Runtime
from distillctl.types import Batch, Output


def answers(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Logits float32 [N, K] and targets int64 [N] on the CPU, of all ranks' batches; the model's mode is restored."""
    logits, targets = own_answers(model, batches, runtime.autocast)
    return runtime.gather(logits), runtime.gather(targets)


def own_answers(
    model: nn.Module, batches: Iterable[Batch], precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> tuple[Tensor, Tensor]:
    """The same of this process's batches alone, in fp32 unless told otherwise."""
    logits, targets = answers_of({"model": model}, batches, precision)
    return logits["model"], targets


@torch.inference_mode()
def answers_of(
    models: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    see: Callable[[Mapping[str, Output]], None] = lambda outputs: None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The same of several models, which are asked one after the other about each batch, so that it is read once; `see` is shown what they say to it.

    Answers are in the split's own order, also where batches come in another (`PlainLoader.order`).
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    targets = []
    with ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluating(model))
        for batch in batches:
            with precision():
                outputs = {name: model(batch.inputs) for name, model in models.items()}
            for name, output in outputs.items():
                logits[name].append(output.logits.float())
            targets.append(batch.targets)
            see(outputs)
    found, told = {name: torch.cat(parts).cpu() for name, parts in logits.items()}, torch.cat(targets).cpu()
    order = getattr(batches, "order", None)
    if order is None:
        return found, told
    back = order.argsort()
    return {name: value[back] for name, value in found.items()}, told[back]
