"""A teacher that never learns: eval mode, no graph, no place in optimizer, DDP or checkpoint."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from distillctl.types import Batch, Output


class Frozen:
    """Answers batches by a fixed model (images -> Output), which normalises them by its own statistics at its own resolution.

    It is no nn.Module on purpose: a method that holds one does not register it.
    """

    name = ""  # of its architecture, for people

    def __init__(self, model: nn.Module, precision: torch.dtype, device: torch.device, channels_last: bool = True):
        model = model.to(device).eval().requires_grad_(False)
        self.model = model.to(memory_format=torch.channels_last) if channels_last else model
        self.precision, self.device = precision, device

    def __call__(self, batch: Batch) -> Output:
        with torch.inference_mode(), torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            answer = self.model(batch.inputs)
        # tensors born in inference mode cannot be saved for a backward pass; a copy can
        return Output(answer.logits.float().clone(), {name: feature.clone() for name, feature in answer.features.items()})


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and values of parameters and buffers, in logical order whatever the memory format."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
