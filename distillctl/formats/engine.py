"""An exported file as a model: it answers what data sets hold, as any other does, and never learns."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillctl.errors import CheckpointError, ConfigError
from distillctl.formats import form_of
from distillctl.formats.format import IMAGE, Runner
from distillctl.models.adapter import Adapter
from distillctl.types import Output

SUM_IS_ONE = 1e-2  # probabilities in float16 miss it by 1e-3


class Engine(nn.Module):
    """A net that another runtime runs: what the file takes to logits float32 [N, K], on the CPU whatever the device.

    digest: SHA-256 of the file, a buffer, since answers depend on nothing else. count, macs: parameters and multiply-accumulates, as far
    as they are known. probabilities: whether the file gives these, whose logarithms are its logits. threads: None for as many as torch has.
    """

    digest: Tensor

    def __init__(self, file: Path, runner: Runner, sha256: str, parameters: int = 0, macs: int | None = None, threads: int | None = 1):
        super().__init__()
        self.file, self.runner, self.threads = file, runner, threads
        self.count, self.macs, self.probabilities = parameters, macs, False
        self.runners = {torch.get_num_threads() if threads is None else threads: runner}
        self.register_buffer("digest", torch.from_numpy(np.frombuffer(bytes.fromhex(sha256), np.uint8).copy()))

    def forward(self, inputs: Tensor) -> Tensor:
        check_no_gradient(self, inputs)
        runner = self.runner if self.threads is not None else self.runner_on(torch.get_num_threads())
        found = torch.from_numpy(runner(inputs.detach().cpu().numpy()))
        if self.probabilities:
            found = found.clamp(min=getattr(runner, "smallest", torch.finfo(torch.float32).tiny)).log()
        return found.to(inputs.device)

    def runner_on(self, threads: int) -> Runner:
        """The file on so many threads: measurements are on one. Raises CheckpointError where it is no longer the file that it was."""
        if threads not in self.runners:
            if form_of(self.file).digest(self.file) != self.sha256:
                raise CheckpointError(f"{self.file}: has changed while it was in use; run again")
            self.runners[threads] = opened(self.file, threads)
        return self.runners[threads]

    def __deepcopy__(self, memo: Any) -> Engine:
        return self  # nothing of it changes

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self.digest.cpu().numpy().tobytes().hex()


class Whole(Adapter):
    """A file that takes images as they are, and does the rest itself. Of floats in [0, 1] it sees the nearest of the 256 gray values.

    resolution: images of another size are scaled to it, so that a file sees all of what nets see; None: as they are.
    """

    def __init__(self, net: Engine, resolution: int | None = None):
        super().__init__(net)
        self.resolution = resolution

    def prepare(self, inputs: Tensor) -> Tensor:
        images = inputs if inputs.dtype == torch.uint8 else inputs * 255
        if self.resolution is not None and images.shape[-2:] != (self.resolution, self.resolution):
            images = F.interpolate(images.float(), (self.resolution, self.resolution), mode="bilinear", antialias=True)
        if images.dtype != torch.uint8:
            images = images.round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1)

    def forward(self, inputs: Any) -> Output:
        check_no_gradient(self.net, inputs)
        return Output(self.net(self.prepare(inputs)), {})

    def settings(self) -> Any:
        return self.resolution


@lru_cache(maxsize=4)
def kept_open(file: Path, modified_ns: int, size: int, threads: int) -> Runner:
    return form_of(file).open(file, threads)


def opened(file: Path, threads: int) -> Runner:
    """A file in its runtime, read once for each state of it: a run asks again and again. Raises CheckpointError and MachineError."""
    try:
        seen = file.stat()
    except OSError:
        return kept_open(file, 0, 0, threads)  # which says what is wrong
    return kept_open(file, seen.st_mtime_ns, seen.st_size, threads)


def engine(file: Path, sha256: str, parameters: int = 0, macs: int | None = None, threads: int | None = 1) -> Engine:
    """A file of any format that is known here. Raises CheckpointError and MachineError."""
    return Engine(file, opened(file, threads or torch.get_num_threads()), sha256, parameters, macs, threads)


def is_whole(net: nn.Module) -> bool:
    """Whether a net is a file that takes images as they are."""
    return isinstance(net, Engine) and net.runner.takes.kind == IMAGE


def has_engine(model: nn.Module) -> bool:
    """Whether a file takes part in what a model answers."""
    return any(isinstance(part, Engine) for part in model.modules())


def runtime_of(model: nn.Module) -> str | None:
    """What runs the file that a model is; None of one that PyTorch runs."""
    net = getattr(model, "net", None)
    return form_of(net.file).runtime if isinstance(net, Engine) else None


def are_probabilities(answers: Tensor) -> bool:
    """Whether rows [N, K] are. Logits that sum to one row by row, none of them negative, are not met."""
    return bool((answers >= 0).all() and ((answers.sum(1) - 1).abs() < SUM_IS_ONE).all())


def check_no_gradient(net: Any, inputs: Any) -> None:
    """Whoever asks for one (an attack) would else be told of tensors. Raises ConfigError."""
    if isinstance(inputs, Tensor) and inputs.requires_grad and torch.is_grad_enabled():
        raise ConfigError(
            f"{net.file}: a file that another runtime runs has no gradients, and an attack goes by them; leave attack out, "
            "or give the .safetensors that it was made from"
        )
