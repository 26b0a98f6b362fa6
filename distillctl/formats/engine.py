"""An exported file as a model: it answers what data sets hold, as any other does, and never learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillctl.formats import by_file
from distillctl.formats.format import IMAGE, Runner
from distillctl.models.adapter import Adapter
from distillctl.types import Output


class Engine(nn.Module):
    """A net that another runtime runs: what the file takes to logits float32 [N, K], on the CPU whatever the device.

    digest: SHA-256 of the file, a buffer, since answers depend on nothing else.
    """

    digest: Tensor

    def __init__(self, file: Path, runner: Runner, sha256: str, parameters: int = 0, macs: int | None = None):
        super().__init__()
        self.file, self.runner = file, runner
        self.count, self.macs = parameters, macs
        self.register_buffer("digest", torch.from_numpy(np.frombuffer(bytes.fromhex(sha256), np.uint8).copy()))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(self.runner(inputs.detach().cpu().numpy())).to(inputs.device)

    def __deepcopy__(self, memo: Any) -> Engine:
        return self  # nothing of it changes


class Whole(Adapter):
    """A file that takes images as they are, and does the rest itself. Of floats in [0, 1] it sees the nearest of the 256 gray values."""

    def prepare(self, inputs: Tensor) -> Tensor:
        images = inputs if inputs.dtype == torch.uint8 else (inputs * 255).round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1)

    def forward(self, inputs: Any) -> Output:
        return Output(self.net(self.prepare(inputs)), {})


def engine(file: Path, sha256: str, parameters: int = 0, macs: int | None = None, threads: int = 1) -> Engine:
    """A file of any format that is known here. Raises CheckpointError and MachineError."""
    found = by_file(file)
    assert found is not None, file
    return Engine(file, found.open(file, threads), sha256, parameters, macs)


def is_whole(net: nn.Module) -> bool:
    """Whether a net is a file that takes images as they are."""
    return isinstance(net, Engine) and net.runner.takes.kind == IMAGE
