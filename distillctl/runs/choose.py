"""Which epoch of a step ships, and which student of a run is final, by what validation says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillctl.config import TrainerConfig
from distillctl.metrics.metric import VALIDATION, by_key

if TYPE_CHECKING:  # sweeps begin without torch
    from distillctl.data.split import Split

BY_TEACHER = {"val_agreement": "agreement with the teacher", "val_kl": "KL from the teacher"}


@dataclass(frozen=True)
class Ranking:
    """What epochs are compared by: keys of validation metrics, of which the first that differs decides."""

    keys: tuple[str, ...]

    def is_better(self, values: Mapping[str, float], before: Mapping[str, float]) -> bool:
        return self.order(values) > self.order(before)

    def order(self, values: Mapping[str, float]) -> tuple[float, ...]:
        """Numbers of which the larger is the better; NaN is worse than any."""
        found = (values[key] if by_key(key).better == "high" else -values[key] for key in self.keys)
        return tuple(-math.inf if math.isnan(value) else value for value in found)


def ranking(trainer: TrainerConfig, labelled: bool, taught: bool) -> Ranking | None:
    """By accuracy, then by NLL; without labels by agreement with the teacher, then by KL. None: the last epoch ships."""
    if trainer.select == "last":
        return None
    usual = ("val_top1", "val_nll") if labelled else tuple(BY_TEACHER) if taught else ()
    if not usual:
        return None
    first = trainer.select_by
    return Ranking(usual if first is None else (first, *(key for key in usual if key != first)))


def is_best(ranked: Ranking | None, values: Mapping[str, float], best: Mapping[str, Any] | None) -> bool:
    """Whether an epoch is the one to ship so far."""
    return best is None or ranked is None or ranked.is_better(values, best["metrics"])


def is_stale(epoch: int, best: Mapping[str, Any] | None, patience: int | None) -> bool:
    """Whether the best epoch is so long ago that training may end."""
    return best is not None and patience is not None and epoch - best["epoch"] >= patience


def in_words(ranked: Ranking | None, trainer: TrainerConfig, step: str, val: Split, noun: str) -> str:
    """How the epoch that ships is chosen, where the validation samples have no labels to choose it by; else nothing."""
    if trainer.select == "last" or val.labelled:
        return ""
    how = "the last epoch ships" if ranked is None else f"the best epoch is chosen by {BY_TEACHER[ranked.keys[0]]}"
    return f"{step}: {how}, as the {len(val):,} validation {noun} have no labels"


def final_of(ranked: Ranking | None, before: Mapping[str, Any], after: Mapping[str, Any], kept: str, noun: str) -> tuple[str, str]:
    """Which of a student before and after fine-tuning ships as final, and the line that says why.

    before, after: what was measured of them. kept: the setting by which the one after ships whatever validation says; empty where it
    decides. Of equals the one before.
    """
    by = ranked or Ranking(("val_top1",))
    wins = by.is_better(after, before)
    metric = by_key(next((key for key in by.keys if before[key] != after[key]), by.keys[0]))
    old, new = (metric.show(row[VALIDATION + metric.key]) for row in (before, after))
    figures = f"{metric.heading} {old} before and {new} after, on {before['val_n']:,} validation {noun}"
    if kept:
        return after[
            "model"
        ], f"* final: {after['model']}, as {kept} says; fine-tuning made it {'better' if wins else 'no better'}: {figures}"
    if wins:
        return after["model"], f"* final: {after['model']}, as fine-tuning made it better: {figures}"
    return before["model"], (
        f"* final: {before['model']}, as fine-tuning made it no better: {figures}; finetune.keep=always ships the fine-tuned one"
    )
