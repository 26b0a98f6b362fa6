"""A teacher that never learns: eval mode, no graph, no place in optimizer, DDP or checkpoint."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import nn

from distillctl.formats.engine import Engine
from distillctl.models.adapter import Adapter
from distillctl.teachers.folding import fold
from distillctl.types import Batch, Inputs, Output, count, pieces

Answer = TypeVar("Answer")

FOLDED_IS_CLOSE = 0.01  # of the largest logit: rounding alone gives 1e-6, and 1e-3 on a GPU that multiplies in TF32


class Frozen:
    """Answers batches by a fixed model (inputs -> Output), which brings them to what its net takes: images by its own statistics, to its own resolution.

    It is no nn.Module on purpose: a method that holds one does not register it.
    """

    name = ""  # of its architecture, for people
    micro_batch: int | None = None  # samples that it answers at once; None: the whole batch

    def __init__(self, model: nn.Module, precision: torch.dtype, device: torch.device, channels_last: bool = True):
        model = model.to(device).eval().requires_grad_(False)
        self.model = model.to(memory_format=torch.channels_last) if channels_last else model
        self.precision, self.device = precision, device

    def __call__(self, batch: Batch) -> Output:
        return concatenated(self.in_pieces(self.model, batch.inputs))

    def in_pieces(self, model: Callable[[Inputs], Answer], inputs: Inputs) -> list[Answer]:
        """What it answers to each piece of a batch. The pieces are nearly alike, so that none is tiny: its kernels would round otherwise."""
        number = -(-count(inputs) // self.micro_batch) if self.micro_batch else 1
        with torch.inference_mode(), torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return [model(piece) for piece in pieces(inputs, number)]

    @cached_property
    def weights_mark(self) -> str:
        """The fingerprint of its weights as they were loaded."""
        return fingerprint(self.model)

    def fold(self, samples: Inputs) -> None:
        """Put batch norm into the convolutions before it, where the answers to `samples` stay as they are up to rounding.

        The new weights are kept in the precision that autocast would bring them to at every step. Others see another model, so only a
        teacher that nobody looks into may be folded.
        """
        self.weights_mark = fingerprint(self.model)
        if is_engine(self.model) or not any(isinstance(part, nn.BatchNorm2d) for part in self.model.modules()):
            return
        model = copy.deepcopy(self.model)
        convolutions = fold(model, samples)
        with torch.no_grad():
            before, after = self.model(samples).logits, model(samples).logits
        if (before - after).abs().max() <= FOLDED_IS_CLOSE * before.abs().max():  # never so for NaN
            self.model = model
            for convolution in convolutions:
                convolution.to(self.precision)

    def compile(self) -> None:
        """Each net by itself, so that what puts several together stays free to ask them one by one."""
        for part in self.model.modules():
            if isinstance(part, Adapter) and not is_engine(part):
                part.compile()


def concatenated(answers: Sequence[Output]) -> Output:
    """Answers to the pieces of a batch as one, logits in float32. Copies: tensors born in inference mode cannot be saved for a backward pass."""
    logits = torch.cat([answer.logits for answer in answers]).float()
    features = {name: torch.cat([answer.features[name] for answer in answers]) for name in answers[0].features}
    masks = [answer.mask for answer in answers if answer.mask is not None]
    return Output(logits, features, mask=torch.cat(masks) if masks else None)


def is_engine(model: nn.Module) -> bool:
    """Whether all of a model's answer is that of a file which another runtime runs: there is nothing in it to change."""
    return isinstance(model, Adapter) and isinstance(model.net, Engine)


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and values of parameters and buffers, in logical order whatever the memory format; of an exported file its own."""
    if isinstance(module, Adapter) and isinstance(module.net, Engine):
        return module.net.sha256
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
