"""The final measurement of several models on the test split: quality, closeness to the teacher, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillctl.config import AttackConfig, ModelConfig
from distillctl.metrics import cost, quality, robustness
from distillctl.metrics.answers import answers
from distillctl.runs.session import Session
from distillctl.runs.teachers import ready_to_answer
from distillctl.runs.train import interrupted


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
    attack: AttackConfig | None = getattr(session.config, "attack", None)
    for candidate in candidates:
        if machine.highest(int(session.stop())):
            raise interrupted(session)
        model, architecture = ready_to_answer(candidate.model, session.images, candidate.role, session.config.seed)
        model = model.to(machine.device)
        if session.config.trainer.channels_last:
            model = model.to(memory_format=torch.channels_last)
        at_once = session.config.teacher.micro_batch if candidate.role == "teacher" else None
        logits, targets = answers(model, session.plain_batches(session.data.test, at_once) if at_once else batches, machine)
        row: dict[str, Any] = {"model": candidate.name, "architecture": architecture, "n": len(targets)}
        row |= quality.measure(logits, targets if session.data.test.labelled else None, teacher_logits)
        if attack is not None and attack.name != "none" and session.data.test.labelled:
            row |= robustness.measure(model, batches, attack, session.config.seed, machine)
        if candidate.name == "teacher":
            teacher_logits = logits
        if machine.is_main:
            row |= costs(model, session.data.image_size, machine.device)
        rows.append(row)
        machine.barrier()
    return rows


def costs(model: nn.Module, image_size: int, device: torch.device) -> dict[str, float]:
    """Parameters, MACs, MB on disk and latency of one image, in fp32 as it ships."""
    model.eval()
    example = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)
    latency = cost.latency(model, example)
    return {
        "parameters": cost.parameters(model),
        "macs": cost.macs(model, example),
        "size_mb": cost.size_mb(model),
        "latency_p50_ms": latency["p50_ms"],
        "latency_p95_ms": latency["p95_ms"],
    }
