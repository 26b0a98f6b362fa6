"""How long batches are worked on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch

from distillctl.types import Batch


class Stopwatch:
    """Batches, and how long each was worked on by who iterates over them."""

    def __init__(self, batches: Iterable[Batch], device: torch.device):
        self.batches, self.device = batches, device
        self.order = getattr(batches, "order", None)
        self.seconds: list[tuple[float, int]] = []  # and samples

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            begun = time.monotonic()
            yield batch
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds.append((time.monotonic() - begun, len(batch.index)))

    @property
    def seconds_per_sample(self) -> float:
        """The first batch warms up, and counts only where it is alone."""
        seconds, samples = zip(*(self.seconds[1:] or self.seconds), strict=True)
        return sum(seconds) / sum(samples)
