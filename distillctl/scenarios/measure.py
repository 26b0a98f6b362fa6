"""The final measurement of several models on the test split: quality, closeness to the teacher, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from distillctl.config import ModelConfig
from distillctl.metrics import cost, quality
from distillctl.metrics.answers import answers
from distillctl.models.obtain import Obtained, obtain
from distillctl.scenarios.session import Session
from distillctl.scenarios.stage import interrupted


@dataclass(frozen=True)
class Candidate:
    """A model that is ready, and what its row is called."""

    name: str
    role: str
    model: ModelConfig


def measure(session: Session, candidates: list[Candidate]) -> list[dict[str, Any]]:
    """One row a candidate, the teacher first if there is one: the others are compared with its answers."""
    machine, rows = session.runtime, []
    teacher_logits = None
    batches = session.plain_batches(session.data.test)
    for candidate in candidates:
        if machine.highest(int(session.stop())):
            raise interrupted(session)
        obtained = obtain(candidate.model, session.images, candidate.role, session.config.seed)
        model = obtained.classifier.to(machine.device)
        if session.config.trainer.channels_last:
            model = model.to(memory_format=torch.channels_last)
        logits, targets = answers(model, batches, machine)
        row: dict[str, Any] = {"model": candidate.name, "architecture": obtained.net.name, "n": len(targets)}
        row |= quality.measure(logits, targets, teacher_logits)
        if candidate.name == "teacher":
            teacher_logits = logits
        if machine.is_main:
            row |= costs(obtained, session.data.image_size, machine.device)
        rows.append(row)
        machine.barrier()
    return rows


def costs(obtained: Obtained, image_size: int, device: torch.device) -> dict[str, float]:
    """Parameters, MACs, MB on disk and latency of one image, in fp32 as it ships."""
    model = obtained.classifier.eval()
    example = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)
    latency = cost.latency(model, example)
    return {
        "parameters": cost.parameters(model),
        "macs": cost.macs(model, example),
        "size_mb": cost.size_mb(model),
        "latency_p50_ms": latency["p50_ms"],
        "latency_p95_ms": latency["p95_ms"],
    }
