"""The state of a training: everything that a step changes, as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from distillctl.averages import follow, warmed_up
from distillctl.entries import Malformed, entry, integer, mapping
from distillctl.methods.method import Method


@dataclass
class Training:
    """Everything that a step changes, and nothing else: what `state()` lists is what a checkpoint holds."""

    method: Method
    optimizers: dict[str, Optimizer]
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0
    samples: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)  # epoch, score and weights of the epoch that will ship
    log_size: int = 0
    logged_step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the loss parts since `logged_step`
    epoch_sums: dict[str, float] = field(default_factory=dict)  # and since the epoch began

    def state(self) -> dict[str, Any]:
        return {
            "method": self.method.state_dict(),
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state() if self.ema else None,
            **{name: getattr(self, name) for name in PLAIN_STATE},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state; of one that lacks an entry, or has another kind of thing there, KeyError or Malformed says so."""
        check_plain(state)
        self.method.load_state_dict(state["method"])
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load(state["ema"])
        for name in PLAIN_STATE:
            setattr(self, name, state[name])


COUNTS = ("epoch", "batch", "step", "samples", "log_size", "logged_step")
PLAIN_STATE = (*COUNTS, "history", "best", "sums", "epoch_sums")


def check_plain(state: Any) -> None:
    """A checkpoint may come from anywhere: what is no tensor is of its kind, before any of it is taken up. Raises Malformed."""
    if not isinstance(state, Mapping):
        raise Malformed("it has to be a mapping")
    for name in COUNTS:
        integer(state, name, low=0)
    for name in ("sums", "epoch_sums"):
        for part in mapping(state, name):
            entry(state[name], part, (int, float), "a number", inside=f"{name}.")
    if not all(isinstance(epoch, Mapping) for epoch in entry(state, "history", list, "a list")):
        raise Malformed("history has to be a list of mappings")
    for name in mapping(state, "best"):
        best, inside = mapping(state["best"], name, inside="best."), f"best.{name}."
        integer(best, "epoch", low=0, inside=inside)
        for part in ("metrics", "weights"):
            mapping(best, part, inside=inside)


class Ema:
    """Exponential moving average of a model's weights; buffers that do not average are copied."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        self.updates += 1
        follow(self.weights, module.state_dict(), warmed_up(self.decay, self.updates))

    def state(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights}

    def load(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
