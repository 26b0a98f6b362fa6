"""A plan that is being written: its steps and rows one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distillctl.config import StageConfig
from distillctl.runs import unlabelled
from distillctl.runs.sources import Given, MadeBy, Source
from distillctl.runs.steps import Choice, Plan, Row, Step, Transform

USUAL = ("fine-tuned", "distilled again", "trained again", "distilled", "teacher")  # of these rows the first is what a run is about


@dataclass
class Draft:
    """A plan that is being written."""

    config: Any
    steps: list[Step | Transform] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    choice: Choice | None = None

    def train(self, name: str, role: str, model: Source, budget: StageConfig, **more: Any) -> MadeBy:
        """Add a step; by labels alone, where no other loss is given."""
        given = {"data": self.config.dataset, "loss": labels_only(self.config.loss), "seed": self.config.seed, **more}
        self.steps.append(Step(name, role, model, budget=budget, **given))
        return MadeBy(name)

    def transform(self, name: str, does: str, model: Given | MadeBy, settings: Any, **more: Any) -> MadeBy:
        """Add a step that trains nothing."""
        self.steps.append(Transform(name, does, "student", model, self.config.dataset, settings, self.config.seed, **more))
        return MadeBy(name)

    def needs_labels(self, name: str) -> str:
        """Why a step that learns from labels is left out; empty where it is not."""
        return "" if self.config.dataset.labels else f"{name}: skipped, it learns from labels ({unlabelled.OFF})"

    def done(self, final: str | None = None) -> Plan:
        names = [row.name for row in self.rows]
        about = next((name for name in (final, *USUAL) if name in names), names[-1] if names else "")
        return Plan(tuple(self.steps), tuple(self.rows), about, self.config.dataset, tuple(self.notes), self.choice)


def labels_only(loss: Mapping[str, Any]) -> dict[str, Any]:
    """The loss of supervised training: cross-entropy alone, smoothed as `loss.ce` says."""
    return {"ce": {"_target_": "distillctl.losses.logits.CrossEntropy", **label_term(loss)}}


def label_term(loss: Mapping[str, Any]) -> dict[str, Any]:
    """What `loss.ce` says, its weight aside."""
    return {key: value for key, value in loss.get("ce", {}).items() if key != "weight"}
