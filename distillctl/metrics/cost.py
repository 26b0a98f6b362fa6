"""What a model costs: parameters, megabytes, multiply-accumulates, milliseconds."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distillctl.modes import evaluating
from distillctl.types import Inputs, device_of, mapped


def parameters(module: nn.Module) -> int:
    """Every parameter once, trained or frozen, tied ones too; buffers are not parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_mb(module: nn.Module) -> float:
    """Megabytes (1e6 bytes) of the state dict at its own dtypes, tied tensors once: a safetensors file less its header of some kB."""
    stored = {id(value): value for value in module.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) / 1e6


def macs(module: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention in one forward pass, eval mode, first sample of `example`.

    Counted on a copy made of fake tensors, which have shapes and no values: no weights in memory, no arithmetic, `module` stays as it is.
    A hook comes along where deepcopy copies it (a bound method, a callable object such as that of pruning); a plain function is left
    behind, because it could only write into what belongs to the original.
    A model whose path depends on values (`.item()`, early exits) has no one count and raises a RuntimeError.
    """
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


def latency(module: nn.Module, example: Inputs, repeats: int = 100, warmup_s: float = 0.1, budget_s: float = 0.5) -> dict[str, float]:
    """p50_ms and p95_ms of a forward pass in eval mode on the first sample of `example`, which lies on the module's device.

    Warms up for `warmup_s`, then times up to `repeats` passes. The whole ends with the pass that exceeds `budget_s`, but never before one
    pass to warm up and one timed. The passes are real: hooks run as always. Training flags come back as they were, module by module.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be >= 1")
    if not 0 <= warmup_s < budget_s:
        raise ValueError(f"warmup_s={warmup_s} must be >= 0 and < budget_s={budget_s}")
    sample = first_sample(example)
    with evaluating(module), torch.no_grad():  # not inference_mode: what a model caches in it can never be trained through again
        start = time.perf_counter_ns()
        _timed_pass_ns(module, sample)
        while time.perf_counter_ns() - start < warmup_s * 1e9:
            _timed_pass_ns(module, sample)
        passes_ns = [_timed_pass_ns(module, sample)]
        while len(passes_ns) < repeats and time.perf_counter_ns() - start < budget_s * 1e9:
            passes_ns.append(_timed_pass_ns(module, sample))
    p50_ms, p95_ms = (torch.tensor(passes_ns, dtype=torch.float64) / 1e6).quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    return {"p50_ms": p50_ms, "p95_ms": p95_ms}


def first_sample(example: Inputs) -> Inputs:
    return mapped(example, lambda column: column[:1])


def _timed_pass_ns(module: nn.Module, sample: Inputs) -> int:
    _synchronize(device_of(sample))
    start = time.perf_counter_ns()
    module(sample)
    _synchronize(device_of(sample))
    return time.perf_counter_ns() - start


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


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
