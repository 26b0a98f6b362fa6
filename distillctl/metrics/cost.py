"""What a model costs: parameters, megabytes, multiply-accumulates; `latency.py` has the milliseconds."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distillctl.formats import bytes_of
from distillctl.formats.engine import Engine
from distillctl.types import Inputs, first_sample, mapped


def parameters(module: nn.Module) -> int:
    """Every parameter once, trained or frozen, tied ones too; buffers are not parameters. Of an exported file what is told of it."""
    return sum(parameter.numel() for parameter in module.parameters()) + sum(engine.count for engine in engines(module))


def size_mb(module: nn.Module) -> float:
    """Megabytes (1e6 bytes) of the state dict at its own dtypes, tied tensors once: a safetensors file less its header of some kB; of an exported file all of it."""
    stored = {id(value): value for value in module.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    for engine in engines(module):
        for mark in engine.state_dict(keep_vars=True).values():  # of the file, and counted with it
            stored.pop(id(mark), None)
    files = sum(bytes_of(engine.file) for engine in engines(module))
    return (sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) + files) / 1e6


def macs(module: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention in one forward pass, eval mode, first sample of `example`.

    Counted on a copy made of fake tensors, which have shapes and no values: no weights in memory, no arithmetic, `module` stays as it is.
    A hook comes along where deepcopy copies it (a bound method, a callable object such as that of pruning); a plain function is left
    behind, because it could only write into what belongs to the original.
    A model whose path depends on values (`.item()`, early exits) has no one count and raises a RuntimeError. Of an exported file nothing
    is computed, what is told of it counts; where nothing is, that is a RuntimeError too.
    """
    files = engines(module)
    if files:
        return macs_of_files(module, files)
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # some models keep constants outside of themselves
    with FakeCopyMode(fake):
        copied = copy.deepcopy(module)
    for original, twin in zip(module.modules(), copied.modules(), strict=True):
        for hooks, twin_hooks in ((original._forward_pre_hooks, twin._forward_pre_hooks), (original._forward_hooks, twin._forward_hooks)):
            for key in [key for key, hook in hooks.items() if twin_hooks[key] is hook]:
                del twin_hooks[key]
    counter = FlopCounterMode(display=False)
    with fake, torch.no_grad(), _countable_kernels(), counter:
        copied.eval()(first_sample(mapped(example, fake.from_tensor)))
    return counter.get_total_flops() // 2


def engines(module: nn.Module) -> list[Engine]:
    """The exported files that take part in a model."""
    return [part for part in module.modules() if isinstance(part, Engine)]


def macs_of_files(module: nn.Module, files: list[Engine]) -> int:
    counts = [engine.macs for engine in files if engine.macs is not None]
    if len(counts) < len(files) or any(True for _ in module.parameters()):
        raise RuntimeError("what an exported file computes is not told")
    return sum(counts)


@contextlib.contextmanager
def _countable_kernels() -> Iterator[None]:
    """No fused kernels, which the counter takes for free: vit_b_16 came to 11.3e9 instead of 17.6e9, an LSTM to 0 (torch 2.15, CPU)."""
    fastpath, onednn, cudnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    torch.backends.cudnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch.backends.mkldnn.enabled = onednn
        torch.backends.cudnn.enabled = cudnn
