"""Learning without forgetting: the model as the last task left it teaches the old classes, on the new samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillctl.strategies.strategy import Strategy, first_classes, total, weighed
from distillctl.types import Batch, Terms


class Lwf(Strategy):
    """Li & Hoiem 2016: labels among the classes of this task, and `loss`, of the old classes, by the old model's answer to the same view.

    over: which classes the labels are told apart from: those of this task (`new`, as published), all that came so far (`seen`), or all of the head.
    """

    name = "lwf"
    distils = True

    def __init__(self, *arguments: Any, over: str = "new", **more: Any):
        super().__init__(*arguments, **more)
        if over not in ("new", "seen", "all"):
            raise ValueError(f"over={over} must be one of new, seen, all")
        self.over = over

    @classmethod
    def about_known_classes(cls, node: Mapping[str, Any]) -> str | None:
        if node.get("over", "new") != "new":
            return None
        return "strategy.over=new tells labels apart among new classes alone; take strategy.over=seen"

    def forward(self, batch: Batch, player: str = "student") -> Terms:
        answer, task = self.student(batch.inputs), self.task
        begin, end = {"new": (task.old, task.seen), "seen": (0, task.seen), "all": (0, answer.logits.shape[1])}[self.over]
        among = batch._replace(targets=batch.targets - begin)
        found = [self.loss(first_classes(answer, end, begin), None, among, only=self.about_labels)]
        guide = self.guide(batch)
        if guide is not None:
            found.append(self.loss(answer, guide, batch, only=self.about_answers))
        if self.old is not None and task.old:
            memory = self.loss(first_classes(answer, task.old), first_classes(self.old(batch), task.old), batch, only=self.about_answers)
            found.append(weighed(memory, 1.0, prefix="old "))
        return total(*found)
