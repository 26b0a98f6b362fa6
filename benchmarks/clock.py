"""What the benchmarks measure time by."""

import time
from collections.abc import Callable

import torch


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds, to the end of what the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
