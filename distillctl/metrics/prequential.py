"""Accuracy of answers that were given before their samples were learnt (Dawid 1984): over all, in a window, and fading (Gama et al. 2013)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any


class Prequential:
    """Right or wrong, in the order of the stream.

    windowed: the mean over the last `window` answers. fading: S_i / N_i with S_i = e_i + a·S_{i-1} and N_i = 1 + a·N_{i-1} (Gama, Sebastião and
    Rodrigues 2013, section 3.3), which needs no window and follows a change as fast as one of 1 / (1 - a) answers.
    """

    def __init__(self, window: int, fading: float):
        self.window, self.fading = window, fading
        self.latest: deque[int] = deque(maxlen=window)
        self.seen, self.right, self.in_window = 0, 0, 0
        self.sum, self.weight = 0.0, 0.0

    def add(self, answers: Iterable[bool]) -> None:
        for right in map(int, answers):
            if len(self.latest) == self.window:
                self.in_window -= self.latest[0]
            self.latest.append(right)
            self.in_window += right
            self.seen, self.right = self.seen + 1, self.right + right
            self.sum, self.weight = right + self.fading * self.sum, 1 + self.fading * self.weight

    def figures(self) -> dict[str, float | None]:
        """None before there is an answer."""
        if not self.seen:
            return {"prequential": None, "windowed": None, "fading": None}
        return {"prequential": self.right / self.seen, "windowed": self.in_window / len(self.latest), "fading": self.sum / self.weight}

    def state(self) -> dict[str, Any]:
        return {"latest": [*self.latest], "seen": self.seen, "right": self.right, "sum": self.sum, "weight": self.weight}

    def load(self, state: Mapping[str, Any]) -> None:
        """Of a run whose window was another one, what fits into this."""
        self.latest = deque((int(right) for right in state["latest"]), maxlen=self.window)
        self.in_window = sum(self.latest)
        self.seen, self.right = int(state["seen"]), int(state["right"])
        self.sum, self.weight = float(state["sum"]), float(state["weight"])
