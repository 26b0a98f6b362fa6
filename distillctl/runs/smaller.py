"""The part of a plan that makes a student smaller and writes it: cut, taught again, exported, quantized."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distillctl.config import AUTO, CompressConfig, Count, Deploys, Distils, TrainConfig
from distillctl.formats import format_of
from distillctl.formats.format import Format
from distillctl.runs import unlabelled
from distillctl.runs.draft import Draft
from distillctl.runs.sources import FILE, Given, MadeBy, Source
from distillctl.runs.steps import Row

EAGER = "fp32 (PyTorch)"
INT8 = ("static", "dynamic", "qat", "int8_weights", "openvino", "litert")
NAMED = {"auto": "quantized", "int4_weights": "int4"}  # of rows, where the quantiser is not called like its numbers


def pruned(
    draft: Draft, config: TrainConfig | CompressConfig, student: Given | MadeBy, teacher: Source | None, before: str
) -> tuple[Given | MadeBy, str]:
    """A student cut in one step or several, taught again behind each as it was taught before. Returns it, and the row of it; as it was where nothing is cut."""
    keys = config.prune
    if keys.name == "none":
        return student, before
    for number in range(1, keys.steps + 1):
        tail = "" if keys.steps == 1 else f"-{number}"
        student = draft.transform(f"prune{tail}", "prune", student, keys, part=(number, keys.steps))
        before = "pruned" if number == keys.steps else f"pruned {number}"
        draft.rows.append(Row(before, "student", student, own=True))
        if config.distill.epochs:
            student, before = taught_again(draft, config, student, teacher, tail)
            name = before if number == keys.steps else f"{before} {number}"
            draft.rows.append(Row(name, "student", student, own=True))
            before = name
    return student, before


def taught_again(draft: Draft, config: Distils, student: Given | MadeBy, teacher: Source | None, tail: str) -> tuple[MadeBy, str]:
    """By its teacher; without one by labels, for as long. Returns it and the name of its row."""
    zeros = {"keeps_zeros": keeps_zeros(draft.config)}
    if teacher is None:
        return draft.train(f"train-again{tail}", "student", student, config.distill, **zeros), "trained again"
    lesson = {**zeros, "loss": unlabelled.loss_of(config), "teacher": teacher, "shares_teacher": True, "method": config.method}
    return draft.train(f"distill-again{tail}", "student", student, config.distill, **lesson), "distilled again"


def keeps_zeros(config: Any) -> bool:
    """Whether single weights were cut, which training leaves zero."""
    return isinstance(config, (TrainConfig, CompressConfig)) and config.prune.name == "unstructured"


def pruned_alone(draft: Draft, config: TrainConfig | CompressConfig) -> None:
    """The net that is left, from fresh weights, by labels, as long as the one that was cut in all."""
    keys = config.prune
    if keys.name in ("none", "unstructured") or draft.needs_labels("alone"):
        return
    name = "prune" if keys.steps == 1 else f"prune-{keys.steps}"
    epochs = together(*[config.distill.epochs] * (keys.steps + 1), config.finetune.epochs)
    if epochs:
        alone = draft.train("pruned-alone", "student", MadeBy(name), replace(config.distill, epochs=epochs), fresh=True)
        draft.rows.append(Row("pruned alone", "student", alone))


def together(*epochs: Count) -> Count:
    """Epochs of several stages; `auto` until all are chosen."""
    return AUTO if AUTO in epochs else sum(int(count) for count in epochs)


def written(draft: Draft, config: Deploys, student: Given | MadeBy, teacher: Source | None = None) -> str | None:
    """The student as a file for another runtime, and that of smaller numbers. Returns the row of the last; None where nothing is written."""
    keys, numbers = config.export, config.quantize
    if keys.format == "none":
        return None
    made, quantized = files_of(draft, config, student, teacher)
    runtime = kind_of(keys.format).runtime
    final = f"fp32 ({runtime})"
    draft.rows.append(Row(final, "student", made, own=True))
    if quantized is not None:
        final = f"{precision_of(numbers.name)} ({runtime})"
        draft.rows.append(Row(final, "student", quantized, own=True))
    if keys.format == "web":
        draft.transform("web", "web", MadeBy(FILE), keys, suffix="")
    return final


def files_of(
    draft: Draft, config: Deploys, student: Given | MadeBy, teacher: Source | None, tail: str = ""
) -> tuple[MadeBy, MadeBy | None]:
    """The file of fp32 numbers and that of smaller ones, where one is asked for."""
    numbers, suffix = config.quantize, kind_of(config.export.format).suffix
    made = draft.transform(f"export{tail}", "export", student, config.export, suffix=suffix)
    if numbers.name == "none":
        return made, None
    source = made
    if numbers.name == "qat":
        source = taught_for_int8(draft, config, student, teacher, tail)
    elif numbers.name == "litert":
        source = student  # type: ignore[assignment]
    return made, draft.transform(f"quantize{tail}", "quantize", source, numbers, suffix=suffix, reference=made)


def kind_of(format: str) -> Format:
    """What is written first for a format."""
    return format_of("onnx" if format == "web" else format)


def taught_for_int8(draft: Draft, config: Any, student: Given | MadeBy, teacher: Source | None, tail: str) -> MadeBy:
    """The student trained on as if its numbers had 8 bits: by its teacher, without one by labels, as long and as gently as it is fine-tuned."""
    assert isinstance(config, (TrainConfig, CompressConfig)), type(config).__name__
    epochs = config.finetune.epochs or config.distill.epochs
    budget = replace(config.distill, epochs=epochs, lr_scale=config.finetune.lr_scale)
    lesson = (
        {} if teacher is None else {"loss": unlabelled.loss_of(config), "teacher": teacher, "shares_teacher": True, "method": config.method}
    )
    return draft.train(f"qat{tail}", "student", student, budget, for_int8=True, **lesson)


def precision_of(quantiser: str) -> str:
    return "int8" if quantiser in INT8 else NAMED.get(quantiser, quantiser)
