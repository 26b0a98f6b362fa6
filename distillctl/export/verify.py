"""Whether an exported file answers as the model that it was made from: run back in its own runtime on real samples, and refused where it does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from distillctl.errors import CheckpointError
from distillctl.metrics import quality
from distillctl.metrics.answers import own_answers
from distillctl.models.adapter import Adapter
from distillctl.types import Batch


@dataclass(frozen=True)
class Verification:
    """n: samples. max_error: the largest difference of a logit; spread: of the model's own logits, their standard deviation.

    agreement: the share of samples that both answer alike. kl: of the file from the model, in nats. top1_before, top1: of model and file, where there are labels.
    """

    n: int
    max_error: float
    spread: float
    agreement: float
    kl: float
    top1_before: float | None = None
    top1: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        tops = "" if self.top1 is None else f", top-1 {100 * (self.top1_before or 0):.2f} before and {100 * self.top1:.2f} after"
        return f"largest difference of a logit {self.max_error:.2g}, agreement {self.agreement:.2%}{tops}, on {self.n:,} validation samples"


def compared(before: Tensor, after: Tensor, targets: Tensor | None) -> Verification:
    """before, after: logits [N, K] of the model and of the file, for the same samples. Where a file's are not finite the error is infinite."""
    error = (before.double() - after.double()).abs().max().item() if after.isfinite().all() else float("inf")
    return Verification(
        len(before),
        error,
        before.double().std().item(),
        quality.agreement(after, before),
        quality.kl_to_teacher(after, before),
        None if targets is None else quality.top_k_accuracy(before, targets, 1),
        None if targets is None else quality.top_k_accuracy(after, targets, 1),
    )


def verify(model: Adapter, file: Adapter, batches: Iterable[Batch], labelled: bool, tolerance: float, where: str) -> Verification:
    """Compare a file with the model that it was made from, in fp32. Raises CheckpointError where a logit differs by more than `tolerance`.

    where: what messages begin with.
    """
    held = list(batches)
    before, targets = own_answers(model, held)
    after, _ = own_answers(file, held)
    check_shape(before, after, where)
    found = compared(before, after, targets if labelled else None)
    check_error(found, tolerance, where)
    check_one_by_one(file, held[0], after, allowed(found.spread, tolerance), where)
    return found


def allowed(spread: float, tolerance: float) -> float:
    """What a logit may differ by: rounding grows with what is rounded, so logits that lie further apart than 1 have as much more."""
    return tolerance * max(1.0, spread)


def check_shape(before: Tensor, after: Tensor, where: str) -> None:
    if before.shape != after.shape:
        raise CheckpointError(f"{where}: it answers {list(after.shape)} where the model answers {list(before.shape)}")


def check_error(found: Verification, tolerance: float, where: str) -> None:
    if not found.max_error <= allowed(found.spread, tolerance):
        raise CheckpointError(
            f"{where}: it does not answer as the model does ({found.in_words()}), and export.tolerance={tolerance:g}; the file is refused"
        )


def check_one_by_one(file: Adapter, batch: Batch, together: Tensor, tolerance: float, where: str) -> None:
    """Whether a sample alone is answered as among others: a file may have been written for one number of samples."""
    assert isinstance(batch.inputs, Tensor)
    with torch.inference_mode():
        alone = torch.cat([file(batch.inputs[place : place + 1]).logits.cpu() for place in range(min(4, len(batch.inputs)))])
    error = (alone - together[: len(alone)]).abs().max().item()
    if not error <= tolerance:
        raise CheckpointError(
            f"{where}: it answers a sample alone otherwise than among others (a logit differs by {error:.2g}); the file is refused"
        )


def check_classes(ours: Sequence[str], theirs: Sequence[str], where: str) -> None:
    """The names in a file, and their order: with others every answer would be right and called wrong."""
    if list(ours) == list(theirs):
        return
    place = next((place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    told = [names[place] if place < len(names) else "(none)" for names in (theirs, ours)]
    raise CheckpointError(f"{where}: its class {place} is {told[0]!r}, the model's is {told[1]!r}; the file is refused")
