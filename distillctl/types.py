"""The three values that travel through the tool, and what inputs of any kind have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = Tensor | dict[str, Tensor]  # a sample in each row: of the tensor, or of all tensors of the dict alike
MARK = "mark"  # of a dict the column that tells one sample from another, int64, where the others depend on who reads it and on its batch


class Batch(NamedTuple):
    """What a loader yields.

    inputs:  of images uint8 [B, 3, H, W]; models bring them to [0, 1] and normalise by their own statistics. Other kinds may have a dict
    targets: int64 [B], or float [B, K] where samples are mixed
    index:   int64 [B], names each sample within its data set
    view:    which augmentation of the samples this is: equal (index, view) means equal inputs
    answers: what was kept of a teacher's answers to these inputs, read ahead of the step: logits [B, M, K] of M teachers, and features
             by name; None where the teacher is asked
    plain:   the samples as they are stored, not augmented; None where nobody asked for them
    place:   where in a whole batch this piece of it begins, and how many samples that has; None of one that is no piece of another
    """

    inputs: Inputs
    targets: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    view: int
    answers: dict[str, Tensor] | None = None
    plain: Inputs | None = None
    place: tuple[int, int] | None = None


class Output(NamedTuple):
    """What a model answers: logits [B, K] and tapped features by name.

    members: the answers of several teachers, where each is a lesson of its own and `logits` are only their mean
    mask: bool [B, T], which positions of a sample are its own, of kinds that are filled up to a common length; None where all are
    answered: bool [B], of a teacher that knows some samples only: which ones; the logits of the others mean nothing. None where it knows all
    """

    logits: Tensor
    features: dict[str, Tensor]
    members: tuple[Output, ...] = ()
    mask: Tensor | None = None
    answered: Tensor | None = None


class Terms(NamedTuple):
    """A scalar loss and the named, weighted parts that it is the sum of."""

    loss: Tensor
    parts: dict[str, Tensor]


def mapped(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same change of every tensor."""
    return {name: change(column) for name, column in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def columns(inputs: Inputs) -> list[Tensor]:
    """The tensors, by the order of their names."""
    return [inputs[name] for name in sorted(inputs)] if isinstance(inputs, dict) else [inputs]


def content(inputs: Inputs) -> list[Tensor]:
    """What tells samples apart: all tensors, or the one column of marks."""
    return [inputs[MARK]] if isinstance(inputs, dict) and MARK in inputs else columns(inputs)


def count(inputs: Inputs) -> int:
    """How many samples there are."""
    return len(columns(inputs)[0])


def rows(inputs: Inputs, chosen: Tensor) -> Inputs:
    """The samples at these positions, int64 on the inputs' device."""
    return mapped(inputs, lambda column: column.index_select(0, chosen))


def batch_rows(batch: Batch, chosen: Tensor) -> Batch:
    """A batch of the samples at these positions alone, int64 on the batch's device; it is no piece of another any more."""
    return Batch(
        rows(batch.inputs, chosen),
        batch.targets[chosen],
        batch.index[chosen],
        batch.view,
        None if batch.answers is None else {name: column[chosen] for name, column in batch.answers.items()},
        None if batch.plain is None else rows(batch.plain, chosen),
    )


def output_rows(answer: Output, chosen: Tensor) -> Output:
    """The answers to the samples at these positions alone, int64 on their device; all of them are answered then, or nobody asks."""
    return Output(
        answer.logits[chosen],
        {name: feature[chosen] if isinstance(feature, Tensor) else feature for name, feature in answer.features.items()},
        tuple(output_rows(member, chosen) for member in answer.members),
        None if answer.mask is None else answer.mask[chosen],
    )


def first_sample(inputs: Inputs) -> Inputs:
    """The first sample, as a batch of one."""
    return mapped(inputs, lambda column: column[:1])


def concatenated(parts: Sequence[Inputs]) -> Inputs:
    """The samples of all parts, one behind the other; rows of another length are filled up with zeros."""
    if isinstance(parts[0], dict):
        return {name: stacked([part[name] for part in parts]) for name in parts[0]}  # type: ignore[index]
    return stacked(parts)  # type: ignore[arg-type]


def stacked(parts: Sequence[Tensor]) -> Tensor:
    longest = max(part.shape[1] if part.ndim == 2 else 0 for part in parts)
    return torch.cat([F.pad(part, (0, longest - part.shape[1])) if part.ndim == 2 else part for part in parts])


def pieces(inputs: Inputs, number: int) -> list[Inputs]:
    """The samples in so many pieces, equal up to one sample."""
    if isinstance(inputs, dict):
        cut = {name: column.tensor_split(number) for name, column in inputs.items()}
        return [{name: parts[place] for name, parts in cut.items()} for place in range(number)]
    return list(inputs.tensor_split(number))


def to(inputs: Inputs, device: torch.device) -> Inputs:
    return mapped(inputs, lambda column: column.to(device))


def dtypes_of(inputs: Inputs) -> tuple[torch.dtype, ...]:
    return tuple(column.dtype for column in content(inputs))


def device_of(inputs: Inputs) -> torch.device:
    return columns(inputs)[0].device
