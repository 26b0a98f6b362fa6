"""`distillctl evaluate`: what a checkpoint is worth on a split, as a table and as JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillctl import outputs, runtime, state
from distillctl.config import ENSEMBLE, EvaluateConfig, ModelConfig
from distillctl.data.balance import shape_of
from distillctl.data.loader import Place
from distillctl.data.split import DataSet, Split
from distillctl.errors import CheckpointError, ConfigError
from distillctl.interruption import StopRequest
from distillctl.invocation import Invocation
from distillctl.metrics import cost, quality, robustness
from distillctl.metrics.answers import answers
from distillctl.models.obtain import Obtained, obtain, source_of
from distillctl.models.record import Record
from distillctl.report.console import Console, Table
from distillctl.report.table import Results, attack_remark
from distillctl.runs import bundle
from distillctl.runs.bundle import at_once
from distillctl.runs.steps import members_of
from distillctl.runs.teachers import check_is_trained, ready_to_answer

CLASSES_SHOWN = 20


def run(config: EvaluateConfig, folder: Path | None, asked: Invocation) -> float | None:
    """What a sweeper may choose by: top-1 on the validation split, or where it has no labels agreement with the teacher; of another split
    nothing. Writes evaluation.json into the run's folder."""
    with named_as_given(), outputs.held(folder, asked) if folder is not None else contextlib.nullcontext():
        return evaluate(config, folder)


def evaluate(config: EvaluateConfig, folder: Path | None) -> float | None:
    model = with_checkpoint(config.model, config.checkpoint)
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
        taught = config.teacher.name == ENSEMBLE or config.teacher.checkpoint or config.teacher.pretrained
        if not (split.labelled or taught):
            raise ConfigError(f"split={name}: these {inputs.noun} have no labels; to measure agreement set teacher.checkpoint=<run folder>")
        attacked = config.attack.name != "none"
        inputs.check_attack(config.attack)
        if attacked and not split.labelled:
            raise ConfigError(f"attack={config.attack.name}: the {inputs.noun} of split={name} have no labels to attack; leave attack out")
        batches = found.plain_batches(split, at_most=at_once(config.trainer))
        teacher_logits = None
        if taught:
            guide, _ = ready_to_answer(config.teacher, inputs, "teacher", seed=0)
            teacher_logits, _ = answers(guide.to(machine.device), batches, machine)
        obtained = obtain(model, inputs, "model", seed=0)
        logits, targets = answers(obtained.classifier.to(machine.device), batches, machine)
        measured = {"n": len(targets), **quality.all_measures(logits, targets if split.labelled else None, teacher_logits)}
        if split.labelled:
            measured |= shape_of(targets, len(data.classes))
        if attacked:
            measured |= robustness.robust_accuracy(obtained.classifier, batches, config.attack, seed=0, runtime=machine)
        classes = quality.per_class(logits, targets, data.classes) if split.labelled else []
        print_report(console, obtained, f"{data.name} {name}, {len(targets):,} {inputs.noun}", measured, classes)
        if machine.is_main and folder is not None:
            report: dict[str, Any] = {
                "checkpoint": str(obtained.weights),
                "architecture": obtained.net.name,
                "dataset": data.name,
                "split": name,
                "fingerprint": data.fingerprint,
                "measured": measured,
                "parameters": cost.parameters(obtained.classifier),
                "classes": classes,
                "confusion": quality.confusion(logits, targets).tolist() if split.labelled else None,
            }
            state.write_json(folder / "evaluation.json", state.finite(report))
            console.say(f"results: {folder / 'evaluation.json'}")
        if config.split != "val":
            return None
        return measured["top1"] if split.labelled else measured["agreement"]


@contextlib.contextmanager
def named_as_given() -> Iterator[None]:
    """Messages about `model.checkpoint` speak of `checkpoint`, the short name that people use."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("model.checkpoint", "checkpoint")) from None


def with_checkpoint(model: ModelConfig, checkpoint: str) -> ModelConfig:
    """`checkpoint=` is the short way to say `model.checkpoint=`."""
    if model.checkpoint not in (None, checkpoint):
        raise ConfigError(f"checkpoint={checkpoint} and model.checkpoint={model.checkpoint} differ; give one of them")
    model.checkpoint = checkpoint
    return model


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


def print_report(console: Console, obtained: Obtained, title: str, measured: dict[str, Any], classes: list[Any]) -> None:
    console.table(Results([{"model": "model", "architecture": obtained.net.name, **measured}], final="model").table(title))
    if measured.get("kl") is not None:
        console.say(f"KL to the teacher: {measured['kl']:.4f} nats")
    if measured.get("robust_top1") is not None:
        console.say(attack_remark(measured))
    if not classes:
        return
    table = Table()
    for heading in ("class", "n", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    worst_first = sorted(classes, key=lambda entry: entry["f1"])
    for entry in classes if len(classes) <= CLASSES_SHOWN else worst_first[:CLASSES_SHOWN]:
        table.add_row(str(entry["class"]), str(entry["n"]), *(f"{100 * entry[key]:.1f}" for key in ("precision", "recall", "f1")))
    console.table(table)
    if len(classes) > CLASSES_SHOWN:
        console.say(f"the {CLASSES_SHOWN} hardest of {len(classes)} classes; all are in the JSON")
