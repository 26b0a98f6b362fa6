"""AutoAttack's standard version (Croce and Hein 2020), as its authors' package has it: the accuracy that four attacks in a row leave."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distillctl import extras
from distillctl.config import AttackConfig
from distillctl.errors import ConfigError
from distillctl.methods.attack import in_unit_range, largest_float32, pixels_of
from distillctl.metrics import quality
from distillctl.modes import evaluating
from distillctl.runtime import Runtime
from distillctl.types import Batch

NAME = "autoattack"
TARGETS = 9  # classes that its targeted attacks try; of fewer classes all but the true one
FEWEST = 4  # classes that its loss compares


def check_usable(classes: int) -> None:
    """Raises MachineError where the package is missing, and ConfigError where there are too few classes for it."""
    if classes < FEWEST:
        raise ConfigError(f"attack={NAME} compares the {FEWEST} largest logits, and here are {classes} classes; take attack=pgd")
    try:
        import pyautoattack  # noqa: F401
    except ImportError:
        raise extras.missing(f"attack={NAME}", "pyautoattack", "autoattack") from None


def robust_accuracy(model: nn.Module, batches: Iterable[Batch], config: AttackConfig, seed: int, runtime: Runtime) -> dict[str, Any]:
    """`robust_top1` under APGD-CE, targeted APGD-DLR, targeted FAB and Square with 5,000 queries, in the maximum norm, and what it was.

    Computed in fp32. Its draws come from the global generator, which is seeded for each batch and given back: other batch sizes are
    other draws. Images that it brings further away than eps count as unchanged ones.
    """
    hits, notes = [], _Notes()
    with evaluating(model), _still(model):
        for batch in batches:
            hits.append(left_right(model, batch, config.eps, seed, notes))
    robust = runtime.gather(torch.cat(hits))
    told = {"name": NAME, "version": "standard", "eps": config.eps, "seed": seed, "warnings": notes.heard}
    return {"robust_top1": robust.double().mean().item(), "attack": told}


def left_right(model: nn.Module, batch: Batch, eps: float, seed: int, notes: _Notes) -> Tensor:
    """bool [B] on the CPU: which samples are still answered with their target."""
    from pyautoattack import AutoAttack

    images, targets = in_unit_range(pixels_of(batch)), batch.targets

    def logits_of(values: Tensor) -> Tensor:
        logits: Tensor = model(values).logits.float()
        return logits

    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), notes.listening():
        attack = AutoAttack(_Answers(logits_of), norm="Linf", eps=eps, version="standard", seed=seed, device=images.device)
        with torch.no_grad():
            clean = logits_of(images)
        attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = min(TARGETS, clean.shape[1] - 1)
        worst, _ = attack.run_standard_evaluation(images, targets, batch_size=len(images))
    within = (worst - images).abs().flatten(1).amax(1) <= largest_float32(eps) * (1 + 1e-5)
    with torch.no_grad():
        return quality.right(clean, targets) & (quality.right(logits_of(worst), targets) | ~within.cpu())


@contextlib.contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """No gradient reaches the parameters: the package goes back through the whole net."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class _Notes(logging.Handler):
    """What the package warns of, each once; it would print it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self.heard:
            self.heard.append(record.getMessage())

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("auto-attack")
        passes_on, logger.propagate = logger.propagate, False
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = passes_on


class _Answers(nn.Module):
    """A model as the package calls one: images in [0, 1] to logits."""

    def __init__(self, answer: Any):
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.answer(images)
        return logits
