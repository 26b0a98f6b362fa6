"""Whether a stream has drifted: detectors of `river`, fed with a number a sample, and saved as the numbers that they were fed with.

A detector of another package has no state that could be written as plain values, and none is pickled: what it was fed with since it
began is kept, and fed to a fresh one when a run goes on. The list is bounded: once it is full the older half is dropped, and the
detector begins with the younger one, in every attempt of a run at the same sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distillctl import extras

MOST = 10_000  # numbers


class Detector:
    """adwin: ADWIN (Bifet & Gavaldà 2007). page_hinkley: Page's test (1954). Both as `river` has them by default.

    A drift is told where the signal rises; where it falls, as errors do while a student learns, ADWIN's window becomes shorter and nothing is told.
    """

    def __init__(self, name: str):
        self.name = name
        self.begin([])

    def begin(self, inputs: Sequence[float]) -> None:
        self.inputs, self.made = [*inputs], fresh(self.name)
        for value in self.inputs:
            self.made.update(value)

    def add(self, value: float) -> bool:
        """Whether a drift is told at this sample, by which the detector begins anew."""
        self.inputs.append(value)
        self.made.update(value)
        if self.made.drift_detected:
            kept = self.inputs[-int(self.made.width) :] if self.name == "adwin" else []
            before = self.inputs[: len(self.inputs) - len(kept)]
            rises = not kept or not before or sum(kept) / len(kept) > sum(before) / len(before)
            self.begin([] if rises else kept)
            return rises
        if len(self.inputs) >= MOST:
            self.begin(self.inputs[-MOST // 2 :])
        return False

    def state(self) -> dict[str, Any]:
        return {"inputs": torch.tensor(self.inputs, dtype=torch.float64)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.begin(state["inputs"].tolist())


def fresh(name: str) -> Any:
    """Raises MachineError where the package is not there."""
    drift = library()
    return drift.ADWIN() if name == "adwin" else drift.PageHinkley(mode="up")


def library() -> Any:
    try:
        from river import drift
    except ImportError:
        raise extras.missing("stream.detector", "river", "stream") from None
    return drift
