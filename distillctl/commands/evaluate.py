"""`distillctl evaluate`: what a checkpoint is worth on a split, as a table and as JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillctl import outputs, runtime, state
from distillctl.commands.given import named_as_given, with_checkpoint
from distillctl.config import ENSEMBLE, EvaluateConfig, ModelConfig
from distillctl.data.balance import shape_of
from distillctl.data.loader import Place
from distillctl.data.split import DataSet, Split
from distillctl.errors import ConfigError
from distillctl.formats.engine import Engine, runtime_of
from distillctl.inputs.contract import Contract
from distillctl.interruption import StopRequest
from distillctl.invocation import Invocation
from distillctl.metrics import artifact, autoattack, calibration, corrupted, fidelity, memory, quality, robustness
from distillctl.metrics.answers import answers, answers_of
from distillctl.metrics.metric import percent
from distillctl.models.obtain import Obtained, obtain, source_of
from distillctl.models.record import Record
from distillctl.models.taps import tap
from distillctl.models.text.causal import ByWords
from distillctl.report.console import Console
from distillctl.report.evaluation import CLASSES_SHOWN, class_table, corruption_remark, corruption_table, cost_lines
from distillctl.report.table import Results, attack_remark
from distillctl.runs import bundle
from distillctl.runs.bundle import Bundle, at_once
from distillctl.runs.measure import costs as runs_cost
from distillctl.runs.sources import members_of
from distillctl.runs.teachers import check_is_trained, ready_to_answer
from distillctl.types import Output

POOLED = "pooled"  # what the head is given, as taps call it


def run(config: EvaluateConfig, folder: Path | None, asked: Invocation) -> float | None:
    """What a sweeper may choose by: top-1 on the validation split, or where it has no labels agreement with the teacher; of another split
    nothing. Writes evaluation.json into the run's folder."""
    with named_as_given(), outputs.held(folder, asked) if folder is not None else contextlib.nullcontext():
        return evaluate(config, folder)


def evaluate(config: EvaluateConfig, folder: Path | None) -> float | None:
    model = with_checkpoint(config.model, config.checkpoint)
    kinds, severities = corrupted.asked_names(config.corruptions), corrupted.asked_severities(config.corruption_severities)
    if config.corruption_severities is not None and not kinds:
        raise ConfigError("corruption_severities says how strong corruptions are, and there are none; add corruptions=true")
    if config.teacher.name == ENSEMBLE:
        for key, member in members_of(config.teacher).items():
            check_is_trained(config, key, member)
    with StopRequest(), runtime.open_runtime(config.trainer) as machine:
        console = Console(silent=not machine.is_main, patient=True)
        place = Place(machine.device, machine.rank, machine.world)
        found = bundle.load_to_measure(config.dataset, at_once(config.trainer), place, *recorded(model))
        data, inputs = found.data, found.inputs
        for note in data.notes:
            console.say(note)
        name, split = asked_split(config, data)
        check_askable(config, inputs, name, split)
        batches = found.plain_batches(split, at_most=at_once(config.trainer))
        guide, student_of = guide_of(config, inputs), obtain(model, inputs, "model", seed=0)
        nets: dict[str, nn.Module] = {} if guide is None else {"teacher": guide[0].to(machine.device)}
        nets["model"] = student = student_of.classifier.to(machine.device)
        if config.attack.name != "none" and isinstance(student_of.net.module, Engine):
            raise ConfigError(
                f"attack={config.attack.name} goes by gradients, and {config.checkpoint} has none; attack the checkpoint that it was exported from"
            )
        alignment = fidelity.LinearCKA(machine) if guide is not None and guide[1] and tap_pooled(student_of, "model") else None
        own, targets = answers_of(nets, batches, machine.autocast, partial(compare, alignment) if alignment else lambda outputs: None)
        logits_of, targets = {key: machine.gather(part) for key, part in own.items()}, machine.gather(targets)
        logits, teacher_logits = logits_of["model"], logits_of.get("teacher")
        measured = {"n": len(targets), **quality.all_measures(logits, targets if split.labelled else None, teacher_logits)}
        if alignment is not None:
            measured["cka"] = alignment.value()
        if split.labelled:
            measured |= shape_of(targets, len(data.classes))
            measured |= scaled(found, student, logits, targets, name, machine)
        if config.attack.name != "none":
            measured |= robustness.robust_accuracy(student, batches, config.attack, seed=0, runtime=machine)
        report: dict[str, Any] = {
            "checkpoint": str(student_of.weights),
            "architecture": student_of.net.name,
            "dataset": data.name,
            "split": name,
            "fingerprint": data.fingerprint,
            "measured": measured,
            "parameters": runs_cost(student, inputs.example(1, machine.device))["parameters"],
            "classes": quality.per_class(logits, targets, data.classes) if split.labelled else [],
            "confusion": quality.confusion(logits, targets).tolist() if split.labelled else None,
        }
        if teacher_logits is not None and split.labelled:
            report["lost_by_class"] = fidelity.lost_by_class(logits, teacher_logits, targets, data.classes)
        if kinds:
            by_net = corrupted.accuracies(nets, batches, kinds, severities, machine)
            report["corruptions"] = corrupted.summary(by_net["model"], by_net.get("teacher"), inputs.size or 0)
        if config.cost and machine.is_main:
            report["cost"] = costs(student_of, config.cost_batch, machine.device)
        machine.barrier()
        print_report(console, report, f"{data.name} {name}, {len(targets):,} {inputs.noun}", inputs.noun)
        if machine.is_main and folder is not None:
            if config.cost:
                report["cost"] = artifact.withheld(report["cost"])
            state.write_json(folder / "evaluation.json", state.finite(report))
            console.say(f"results: {folder / 'evaluation.json'}")
        if config.split != "val":
            return None
        return measured["top1"] if split.labelled else measured["agreement"]


def check_askable(config: EvaluateConfig, inputs: Contract, name: str, split: Split) -> None:
    """Whether what is asked for can be measured of these samples. Raises ConfigError."""
    if not (split.labelled or is_taught(config)):
        raise ConfigError(f"split={name}: these {inputs.noun} have no labels; to measure agreement set teacher.checkpoint=<run folder>")
    inputs.check_attack(config.attack)
    attack = config.attack.name
    if attack != "none" and not split.labelled:
        raise ConfigError(f"attack={attack}: the {inputs.noun} of split={name} have no labels to attack; leave attack out")
    if attack == autoattack.NAME:
        autoattack.check_usable(len(inputs.classes))
    if corrupted.asked_names(config.corruptions):
        if inputs.kind != "images":
            raise ConfigError(
                f"corruptions={said(config.corruptions)} changes images, and the data set has {inputs.noun}; leave corruptions out"
            )
        if not split.labelled:
            raise ConfigError(
                f"corruptions={said(config.corruptions)}: the {inputs.noun} of split={name} have no labels to be answered; leave corruptions out"
            )


def said(given: Any) -> str:
    """A value as it was typed."""
    if isinstance(given, (bool, str)):
        return str(given).lower()
    return f"[{','.join(map(str, given))}]"


def is_taught(config: EvaluateConfig) -> bool:
    return bool(
        config.teacher.name == ENSEMBLE
        or config.teacher.checkpoint
        or config.teacher.file
        or config.teacher.pretrained
        or config.teacher.model
    )


def guide_of(config: EvaluateConfig, inputs: Contract) -> tuple[nn.Module, bool] | None:
    """The teacher, where there is one, and whether its pooled features are caught: those of several that answer as one are not."""
    if not is_taught(config):
        return None
    if config.teacher.name == ENSEMBLE:
        return ready_to_answer(config.teacher, inputs, "teacher", seed=0)[0], False
    obtained = obtain(config.teacher, inputs, "teacher", seed=0)
    return obtained.classifier, tap_pooled(obtained, "teacher")


def tap_pooled(obtained: Obtained, key: str) -> bool:
    """Catch what the head is given; False for a net of which nobody knows where that is, and for a file that another runtime runs."""
    if isinstance(obtained.net.module, (Engine, ByWords)):
        return False
    try:
        obtained.classifier.taps = tap(obtained.net.module, (POOLED,), obtained.inputs.net_example, key)
    except ConfigError:
        return False
    return True


def compare(alignment: fidelity.LinearCKA, outputs: Mapping[str, Output]) -> None:
    student, teacher = (fidelity.as_vectors(outputs[name].features[POOLED]) for name in ("model", "teacher"))
    alignment.add(student, teacher)


def scaled(found: Bundle, model: nn.Module, logits: Tensor, targets: Tensor, name: str, machine: runtime.Runtime) -> dict[str, Any]:
    """What a temperature makes of the calibration, which the validation split decides; nothing where that is measured itself, or has no labels."""
    val = found.data.val
    if name in ("val", "all") or not len(val) or not val.labelled:
        return {}
    val_logits, val_targets = answers(model, found.plain_batches(val, at_most=found.batch_size), machine)
    return {**calibration.scaled_measures(logits, targets, val_logits, val_targets), "temperature_n": len(val_targets)}


def costs(obtained: Obtained, batch: int, device: torch.device) -> dict[str, Any]:
    """What the file costs in its own runtime."""
    model, inputs, file = obtained.classifier, obtained.inputs, obtained.weights
    assert file is not None
    one, many = inputs.example(1, device), inputs.example(batch, device)
    torch_on = f"PyTorch on {'CPU' if device.type == 'cpu' else torch.cuda.get_device_name(device)}"
    found: dict[str, Any] = {"runtime": runtime_of(model) or torch_on}
    found |= artifact.runtime_costs({"model": artifact.Timed(model, one, many)})["model"]
    known = obtained.record is not None
    found["peak_memory_mb"] = memory.peak_memory_mb(memory.prepare_recorded, file, batch) if known else None
    return {**found, "file_mb": artifact.file_mb(file), **(runs_cost(model, one) | {"size_mb": artifact.file_mb(file)})}


def recorded(model: ModelConfig) -> tuple[list[str] | None, Record | None]:
    """The names of the classes that the checkpoint knows, and its record, where it has one."""
    _, record = source_of(model, "model")
    if record is None:
        return None, None
    return None if model.ignore_class_names or model.new_head else list(record.classes), record


def asked_split(config: EvaluateConfig, data: DataSet) -> tuple[str, Split]:
    """The split that is measured, and its name; by default the test split, and of samples that none were trained on all."""
    name = config.split or ("test" if len(data.train) else "all")
    split = data.split(name)
    if not len(split):
        raise ConfigError(f"split={name}: nothing here is for that; leave split out to measure all that there is")
    return name, split


def print_report(console: Console, report: dict[str, Any], title: str, noun: str) -> None:
    measured, classes = report["measured"], report["classes"]
    row = {"model": "model", "architecture": report["architecture"], **measured}
    if "cost" in report:
        row |= {**report["cost"], "size_mb": report["cost"]["file_mb"]}
    console.table(Results([row], final="model").table(title))
    if measured.get("kl") is not None:
        console.say(f"KL to the teacher: {measured['kl']:.4f} nats")
    if measured.get("negative_flips") is not None:
        flips = f"{percent(measured['negative_flips'])} % right by the teacher and wrong here, {percent(measured['positive_flips'])} % the other way"
        console.say(f"flips: {flips}")
    if measured.get("cka") is not None:
        console.say(f"CKA of pooled features with the teacher's: {measured['cka']:.3f}")
    if measured.get("temperature") is not None:
        console.say(calibration.in_words(measured, measured["temperature_n"], noun))
    if measured.get("robust_top1") is not None:
        console.say(attack_remark(measured))
    if classes:
        console.table(class_table(classes))
    if len(classes) > CLASSES_SHOWN:
        console.say(f"the {CLASSES_SHOWN} hardest of {len(classes)} classes; all are in the JSON")
    if lost := fidelity.lost_in_words(report.get("lost_by_class", ())):
        console.say(lost)
    if "corruptions" in report:
        console.table(corruption_table(report["corruptions"], measured["top1"]))
        console.say(corruption_remark(report["corruptions"]))
    for line in cost_lines(artifact.withheld(report["cost"]), noun) if "cost" in report else ():
        console.say(line)
