"""The end of a task: the strategy looks back, what it carries over is written, and the student is measured on every task's test samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.metrics import quality
from distillctl.metrics.answers import answers
from distillctl.metrics.continual import by_task
from distillctl.metrics.metric import VALIDATION
from distillctl.runs.assemble import Assembly
from distillctl.runs.bundle import Bundle
from distillctl.runs.lifelong.handover import everywhere, hand_over
from distillctl.runs.session import Session
from distillctl.strategies.strategy import Strategy

ROW = "tasks"  # where a step's record has its row of the matrix


def end_of_task(session: Session, assembly: Assembly, student: nn.Module, folder: Path) -> dict[str, Any]:
    """Done anew where a run was stopped meanwhile, to the same bytes. Returns what the step's record says of it. student: whose weights count."""
    method, training, bundle = assembly.training.method, assembly.training, assembly.bundle
    assert isinstance(method, Strategy)
    seconds = session.clock.step.spent_s()
    with torch.random.fork_rng(devices=[]):
        method.after_task(student, everywhere(session, bundle))
    best = training.best["student"]
    best["weights"] = {key: value.detach().cpu().clone() for key, value in student.plain_state().items()}  # type: ignore[operator]
    if method.herds:  # it answers otherwise now than after its last epoch
        logits, targets = answers(student, bundle.plain_batches(bundle.data.val), session.runtime)
        best["metrics"] = {**best["metrics"], VALIDATION + "top1": quality.top_k_accuracy(logits, targets, 1)}
    row = measured(session, session.bundle(assembly.step.data), student, assembly.step.tasks[-1])
    if session.run is not None:
        hand_over(folder, method)
    memory = method.memory
    return {
        ROW: {
            **row,
            "seconds": seconds,
            "memory_bytes": memory.bytes if memory is not None else 0,
            "memory_samples": memory.filled if memory is not None else 0,
            "carried_bytes": sum(value.numel() * value.element_size() for value in method.carried().values()),
        }
    }


def measured(session: Session, whole: Bundle, student: nn.Module, number: int) -> dict[str, Any]:
    """A row of the matrix: what a student that has learnt `number` tasks answers of the test samples of all of them."""
    tasks = whole.tasks
    assert tasks is not None
    test = whole.data.test
    logits, targets = answers(student, whole.plain_batches(test), session.runtime)
    belongs: Tensor = tasks.of(test)
    return by_task(logits, targets, belongs, tasks.own, tasks.ends[number - 1] if number else 0, number)
