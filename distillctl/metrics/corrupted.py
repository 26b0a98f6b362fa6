"""How much of models' accuracy common corruptions leave, and what that is beside a teacher's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillctl.errors import ConfigError, did_you_mean
from distillctl.metrics import quality
from distillctl.metrics.corruptions import CORRUPTIONS, SEVERITIES, corrupt, source
from distillctl.modes import evaluating
from distillctl.runtime import Runtime
from distillctl.types import Batch

Accuracies = dict[str, dict[int, float]]  # by corruption and severity


def asked_names(given: Any) -> tuple[str, ...]:
    """The corruptions that `corruptions` asks for: none, all, or a list of them. Raises ConfigError."""
    if given in (None, False):
        return ()
    if given is True:
        return tuple(CORRUPTIONS)
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not names:
        raise ConfigError(f"corruptions={given}: expected true, or a list as in corruptions=[gaussian_noise,fog]")
    for name in names:
        if not isinstance(name, str) or name not in CORRUPTIONS:
            raise ConfigError(f"corruptions={name}: no such corruption; {did_you_mean(str(name), tuple(CORRUPTIONS))}")
    return tuple(dict.fromkeys(names))


def asked_severities(given: Sequence[int] | None) -> tuple[int, ...]:
    """In rising order; null is all five. Raises ConfigError."""
    if given is None:
        return SEVERITIES
    for severity in given:
        if severity not in SEVERITIES:
            raise ConfigError(f"corruption_severities={severity}: severities go from 1 to 5")
    if not given:
        raise ConfigError("corruption_severities=[] leaves none; leave it out for all five")
    return tuple(sorted(set(given)))


@torch.inference_mode()
def accuracies(
    models: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    names: Sequence[str],
    severities: Sequence[int],
    runtime: Runtime,
    seed: int = 0,
) -> dict[str, Accuracies]:
    """Top-1 of each model under each corruption, of all ranks' batches. A batch is read once, and corrupted once for all models."""
    kinds = [(name, severity) for name in names for severity in severities]
    hits: dict[str, list[Tensor]] = {model: [] for model in models}
    for batch in batches:
        found: dict[str, list[Tensor]] = {model: [] for model in models}
        for name, severity in kinds:
            assert isinstance(batch.inputs, Tensor)
            images = corrupt(batch.inputs, batch.index, name, severity, seed)
            for key, model in models.items():
                with evaluating(model), runtime.autocast():
                    logits = model(images).logits
                found[key].append(quality.right(logits.float(), batch.targets))
        for key, columns in found.items():
            hits[key].append(torch.stack(columns, 1))
    result: dict[str, Accuracies] = {}
    for key, parts in hits.items():
        shares = runtime.gather(torch.cat(parts)).double().mean(0).tolist()
        result[key] = {name: {} for name in names}
        for (name, severity), share in zip(kinds, shares, strict=True):
            result[key][name][severity] = share
    return result


def summary(student: Accuracies, teacher: Accuracies | None, image_size: int) -> dict[str, Any]:
    """What evaluation.json holds: accuracies by corruption and severity, each corruption's mean error, and their mean.

    `mean_error` is the plain mean of errors, not normalised. With a teacher there is `normalised_error` too: each corruption's errors summed
    over severities, over the teacher's sum, and the mean of that: the mCE of Hendrycks and Dietterich 2019 with the teacher in
    the place of AlexNet; None for a corruption that the teacher makes no error under, which the mean then leaves out.
    """
    errors = {name: error_of(student[name]) for name in student}
    found: dict[str, Any] = {
        "strengths": source(image_size),
        "accuracy": {name: {str(severity): value for severity, value in by.items()} for name, by in student.items()},
        "error": errors,
        "mean_error": mean(errors.values()),
    }
    if teacher is not None:
        theirs = {name: error_of(teacher[name]) for name in teacher}
        ratios = {name: errors[name] / theirs[name] if theirs[name] else None for name in errors}
        found |= {"teacher_error": theirs, "teacher_mean_error": mean(theirs.values()), "normalised_by": "teacher"}
        found |= {"normalised": ratios, "normalised_error": mean(ratio for ratio in ratios.values() if ratio is not None)}
    return found


def error_of(by_severity: Mapping[int, float]) -> float:
    return 1 - sum(by_severity.values()) / len(by_severity)


def mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
