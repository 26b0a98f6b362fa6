"""The teacher whose answers are in a file: it is asked about samples by their places, and looks at none of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillctl.teachers.answers.matching import UNKNOWN, Known
from distillctl.teachers.frozen import Frozen
from distillctl.types import Batch, Inputs, Output


class Held(nn.Module):
    """Logits float32 [R, K] of answered samples, and where each training sample's are: int64 by its index. Asked by `FromFile` alone."""

    logits: Tensor
    places: Tensor

    def __init__(self, logits: Tensor, places: Tensor):
        super().__init__()
        self.register_buffer("logits", logits)
        self.register_buffer("places", places)


class FromFile(Frozen):
    """Answers to the training samples of a data set, as `known` has them. An answer is about the sample as it is stored, so each view of it has the same.

    validation: the logits [N, K] of the validation samples; None unless the file knows all of them.
    """

    model: Held

    def __init__(self, known: Known, precision: torch.dtype, device: torch.device):
        places = known.places["train"]
        answered = places != UNKNOWN
        at = torch.full((int(known.index.max()) + 1,), UNKNOWN)
        at[known.index[answered]] = torch.arange(int(answered.sum()))
        super().__init__(Held(known.logits[places[answered]], at), precision, device, channels_last=False)
        self.weights_mark, self.name = known.table.sha256, known.table.name
        self.whole, self.validation = bool(answered.all()), known.of("val")

    def __call__(self, batch: Batch) -> Output:
        """Of the training split's samples. Where the file knows some only, `answered` says which, and the logits of the others are 0."""
        places = self.model.places[batch.index]
        if self.whole:
            return Output(self.model.logits[places], {})
        known = places != UNKNOWN
        return Output(self.model.logits[places.clamp(min=0)].masked_fill(~known[:, None], 0.0), {}, answered=known)

    def fold(self, samples: Inputs) -> None:
        """There is no net."""

    def compile(self) -> None:
        """There is no net."""
