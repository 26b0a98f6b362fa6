"""What models are worth: on the validation split after each epoch, and at the end there too and, once, on the test split."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.config import ANSWERS, Distils, Finetunes, Pretrains
from distillctl.data.balance import shape_of
from distillctl.formats.engine import Engine, has_engine, runtime_of
from distillctl.metrics import calibration, cost, latency, quality, robustness
from distillctl.metrics.answers import answers
from distillctl.metrics.chance import is_near_chance
from distillctl.metrics.metric import VALIDATION
from distillctl.metrics.stopwatch import Stopwatch
from distillctl.runs.answering import is_answers
from distillctl.runs.bundle import Bundle
from distillctl.runs.choose import BY_TEACHER, Ranking
from distillctl.runs.session import Session
from distillctl.runs.sources import MadeBy
from distillctl.runs.steps import Plan, Row
from distillctl.runs.teachers import ready_to_answer
from distillctl.teachers.answers.known import FromFile
from distillctl.teachers.frozen import Frozen
from distillctl.types import Inputs


def validation(logits: Tensor, targets: Tensor | None, teacher: Tensor | None, ranking: Ranking | None) -> dict[str, float]:
    """What the validation samples say of a student: by their labels, where they have any, and by the teacher's logits [N, K].

    What is always looked at, and what epochs are ranked by.
    """
    measures: dict[str, Callable[[], float]] = {}
    if targets is not None:
        measures |= {
            "top1": lambda: quality.top_k_accuracy(logits, targets, 1),
            "nll": lambda: quality.negative_log_likelihood(logits, targets),
            "ece": lambda: quality.expected_calibration_error(logits, targets),
            "macro_f1": lambda: quality.macro_f1(logits, targets),
        }
    if teacher is not None:
        measures |= {"agreement": lambda: quality.agreement(logits, teacher), "kl": lambda: quality.kl_to_teacher(logits, teacher)}
    wanted = {"top1", "nll", "agreement", *(() if targets is not None else ("kl",))}
    wanted |= {key.removeprefix(VALIDATION) for key in (ranking.keys if ranking else ())}
    return {VALIDATION + key: measure() for key, measure in measures.items() if key in wanted}


def knows_validation(teacher: Frozen | None) -> bool:
    """Whether there is a teacher that answers the validation samples: a file may know others alone."""
    return teacher is not None and not (isinstance(teacher, FromFile) and teacher.validation is None)


def examined(session: Session, bundle: Bundle, teacher: Frozen, made_by: str = "") -> tuple[Tensor | None, float]:
    """A teacher's logits [N, K] for the validation samples, through the student's own pipeline, and the seconds that one takes. Says what it is worth.

    None of a file that does not know them all. made_by: the step of this run that has trained it; empty of one that was given.
    """
    seconds = 0.0
    if isinstance(teacher, FromFile):
        if teacher.validation is None:
            return None, seconds
        logits, targets = teacher.validation, bundle.data.val.targets
    else:
        batches = Stopwatch(bundle.plain_batches(bundle.data.val, teacher.micro_batch), session.runtime.device)
        logits, targets = answers(teacher.model, batches, session.runtime)
        seconds = batches.seconds_per_sample
    if bundle.data.val.labelled:
        accuracy, chance = quality.top_k_accuracy(logits, targets, 1), 1 / len(bundle.data.classes)
        session.console.say(f"teacher: top-1 {accuracy:.2%} on {len(targets)} validation {bundle.inputs.noun}")
        if is_near_chance(accuracy, len(bundle.data.classes), len(targets)):
            session.console.warn(f"the teacher is near chance ({chance:.2%}): {doubt(made_by)}")
    return logits, seconds


def doubt(made_by: str) -> str:
    """What to think of a teacher near chance: one that was trained on these samples a moment ago has their classes."""
    if not made_by:
        return "are its classes and its preprocessing those of this data set?"
    stage = "pretrain" if made_by.startswith("pretrain") else "distill"
    return f"{made_by} has taught it little; train it longer ({stage}.epochs=N), or at another rate (optimizer.lr, {stage}.lr_scale)"


def measure_rows(session: Session, plan: Plan, bundle: Bundle, made: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The rows of a plan, the teacher first if there is one: the others are compared with its answers."""
    config, machine, rows = session.config, session.runtime, []
    teacher_logits = teacher_val = None
    nets: dict[Hashable, nn.Module] = {}  # of each architecture the first
    keys: list[Hashable] = []
    test, val = bundle.data.test, bundle.data.val
    batches = bundle.plain_batches(test)
    for row in plan.rows:
        if isinstance(row.model, MadeBy) and row.model.step not in made:
            continue  # its step has left nothing
        if is_answers(row.model):
            teacher_logits, teacher_val = known_of(bundle)
            if teacher_logits is not None:
                rows.append(row_of_answers(row, bundle, teacher_logits, teacher_val))
                keys += [None] * machine.is_main
            continue
        if machine.highest(int(session.stop())):
            raise session.interrupted()
        model, architecture = ready(session, plan, row, made)
        at_once = config.teacher.micro_batch if row.role == "teacher" and isinstance(config, (Pretrains, Distils)) else None
        logits, targets = answers(model, bundle.plain_batches(test, at_once) if at_once else batches, machine)
        found: dict[str, Any] = {"model": row.name, "architecture": architecture, "n": len(targets)}
        found |= quality.all_measures(logits, targets if test.labelled else None, teacher_logits)
        val_logits, val_targets = answers(model, bundle.plain_batches(val, at_once), machine)
        found |= on_validation(val_logits, val_targets if val.labelled else None, teacher_val)
        if test.labelled and val.labelled:
            found |= calibration.scaled_measures(logits, targets, val_logits, val_targets)
        found |= shape_of(targets, len(bundle.data.classes)) if test.labelled else {}
        if isinstance(config, (Distils, Finetunes)) and config.attack.name != "none" and test.labelled and not has_engine(model):
            found |= robustness.robust_accuracy(model, batches, config.attack, session.config.seed, machine)
        if row.name == "teacher":
            teacher_logits, teacher_val = logits, val_logits
        if machine.is_main:
            found |= costs(model, bundle.inputs.example(1, machine.device))
            found |= {"runtime": runtime} if (runtime := runtime_of(model)) else {}
            keys.append(architecture_of(found, model))
            nets.setdefault(keys[-1], model)
        rows.append(found)
        machine.barrier()
    if machine.is_main:
        rounds = latency.latencies(nets, bundle.inputs.example(1, machine.device))
        timed = {key: in_milliseconds(found) for key, found in rounds.items()} | {None: {}}
        rows = [row | timed[key] for row, key in zip(rows, keys, strict=True)]
    machine.barrier()
    return rows


def known_of(bundle: Bundle) -> tuple[Tensor | None, Tensor | None]:
    """What the teacher's file says of the test samples and of the validation samples, [N, K] each; None of a split that it does not know whole."""
    assert bundle.answers is not None
    return bundle.answers.of("test"), bundle.answers.of("val")


def row_of_answers(row: Row, bundle: Bundle, logits: Tensor, val_logits: Tensor | None) -> dict[str, Any]:
    """What answers are worth by labels. They cost nothing that could be measured."""
    test, val = bundle.data.test, bundle.data.val
    found: dict[str, Any] = {"model": row.name, "architecture": ANSWERS, "n": len(logits)}
    found |= quality.all_measures(logits, test.targets if test.labelled else None, None)
    if val_logits is not None:
        found |= on_validation(val_logits, val.targets if val.labelled else None, None)
        if test.labelled and val.labelled:
            found |= calibration.scaled_measures(logits, test.targets, val_logits, val.targets)
    return found | (shape_of(test.targets, len(bundle.data.classes)) if test.labelled else {})


def ready(session: Session, plan: Plan, row: Row, made: Mapping[str, Path]) -> tuple[nn.Module, str]:
    """A row's model on the run's device, and the name of its architecture."""
    inputs, trainer = session.bundle(plan.test).inputs, session.config.trainer
    model, architecture = ready_to_answer(plan.resolved(row.model, made), inputs, row.role, session.config.seed)
    model = model.to(session.runtime.device)
    return (model.to(memory_format=torch.channels_last) if trainer.channels_last else model), architecture


def validated(session: Session, plan: Plan, row: Row, made: Mapping[str, Path]) -> dict[str, Any]:
    """What the validation split says of a row's model, by labels; as `measure_rows` has it."""
    bundle, machine = session.bundle(plan.test), session.runtime
    model, _ = ready(session, plan, row, made)
    teacher = None
    if any(other.name == "teacher" for other in plan.rows) and session.config.trainer.select_by in BY_TEACHER:
        if is_answers(plan.row("teacher").model):
            teacher = known_of(bundle)[1]
        else:
            guide, _ = ready(session, plan, plan.row("teacher"), made)
            teacher, _ = answers(guide, bundle.plain_batches(bundle.data.val), machine)
    logits, targets = answers(model, bundle.plain_batches(bundle.data.val), machine)
    return {"model": row.name, **on_validation(logits, targets, teacher)}


def on_validation(logits: Tensor, targets: Tensor | None, teacher: Tensor | None) -> dict[str, Any]:
    """All that the validation split says of a model, by keys that say so: choices are made by it."""
    return {VALIDATION + key: value for key, value in {"n": len(logits), **quality.all_measures(logits, targets, teacher)}.items()}


def costs(model: nn.Module, example: Inputs) -> dict[str, float]:
    """Parameters, MB on disk and MACs of one sample, in fp32 as it ships; no MACs of a net whose path depends on values."""
    found: dict[str, float] = {"parameters": cost.parameters(model), "size_mb": cost.size_mb(model)}
    with contextlib.suppress(RuntimeError):
        found["macs"] = cost.macs(model.eval(), example)
    return found


def architecture_of(row: dict[str, Any], model: nn.Module) -> Hashable:
    """What nets share that take the same time: rows of one student at several stages are one net to a clock."""
    if isinstance(net := getattr(model, "net", None), Engine):
        return row["architecture"], str(net.file)
    return row["architecture"], row.get("macs"), tuple((name, value.shape) for name, value in model.state_dict().items())


def in_milliseconds(rounds: list[float]) -> dict[str, Any]:
    """What a row says of latency."""
    found = latency.spread(rounds)
    told = {"latency_p50_ms": found.middle, "latency_spread": found.relative, "latency_stable": found.repeats}
    return {**told, "latency_rounds_ms": rounds}
