"""`distillctl predict`: class names and probabilities for images, as a table, as JSON lines or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distillctl import runtime
from distillctl.commands.evaluate import named_as_given, with_checkpoint
from distillctl.config import PredictConfig
from distillctl.errors import CheckpointError, ConfigError, DataError
from distillctl.inputs import from_record
from distillctl.inputs.contract import Contract
from distillctl.models.locate import locate
from distillctl.models.obtain import obtain
from distillctl.models.record import Record
from distillctl.models.shipping import read_record
from distillctl.models.weights import read_weights
from distillctl.paths import as_path
from distillctl.report.console import Console, Table
from distillctl.terminal import say
from distillctl.types import to


def run(config: PredictConfig, folder: Path | None) -> None:
    """Prints one row an image. A file that cannot be read is an error before anything is printed."""
    with named_as_given():
        predict(config)


def predict(config: PredictConfig) -> None:
    model = with_checkpoint(config.model, config.checkpoint)
    _, record = recorded(config.checkpoint, "names its classes; train with distillctl, or keep its .json")
    inputs = from_record(record)
    files = list(expand(config.inputs, inputs))
    with runtime.open_runtime(config.trainer) as machine:
        classes = record.classes
        classifier = obtain(model, inputs, "model", seed=0).classifier.to(machine.device).eval()
        found = []
        for start in range(0, len(files), config.trainer.batch_size):
            chunk = files[start : start + config.trainer.batch_size]
            samples = to(inputs.read(chunk, config), machine.device)
            with torch.inference_mode(), machine.autocast():
                probabilities = classifier(samples).logits.float().softmax(-1).cpu()
            best = probabilities.topk(min(config.top_k, len(classes)))
            for path, values, positions in zip(chunk, best.values.tolist(), best.indices.tolist(), strict=True):
                answers = [{"class": classes[p], "p": v} for p, v in zip(positions, values, strict=True)]
                found.append({inputs.noun.removesuffix("s"): str(path), "answers": answers})
    print_answers(found, config.format)


def recorded(checkpoint: str, lacking: str) -> tuple[Path, Record]:
    """The file of weights that a path names, and its record. Raises CheckpointError; `lacking` ends what is said where there is no record."""
    file = locate(checkpoint, "model", "checkpoint")
    record = read_record(file, "checkpoint")
    if record is None:
        read_weights(file, "checkpoint")  # what is wrong with the file itself comes before what it lacks
        raise CheckpointError(f"checkpoint={checkpoint}: no record beside it {lacking}")
    return file, record


def expand(given: list[str], inputs: Contract) -> Iterator[Path]:
    """Files as given, folders as the samples below them, in a stable order."""
    if not given:
        raise ConfigError("inputs is empty: pass inputs=[image.png] or inputs=[folder]")
    for name in given:
        path = as_path(name)
        if path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.suffix.lower() in inputs.suffixes and not item.name.startswith("."))
            if not inside:
                raise DataError(f"inputs={name}: no {inputs.noun} in this folder")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise DataError(f"inputs={name}: no such file")


def print_answers(found: list[dict[str, Any]], form: str) -> None:
    if form == "jsonl":
        for item in found:
            say(json.dumps(item))
        return
    if form == "csv":
        say(as_csv(found))
        return
    table = Table()
    noun = next(iter(found[0]))
    table.add_column(noun, overflow="fold")
    table.add_column("class")
    table.add_column("p", justify="right")
    table.add_column("next", style="dim")
    for item in found:
        first, *rest = item["answers"]
        table.add_row(item[noun], first["class"], f"{first['p']:.3f}", ", ".join(f"{other['class']} {other['p']:.3f}" for other in rest))
    Console().table(table)


def as_csv(found: list[dict[str, Any]]) -> str:
    """A line a sample, all with the columns of the heading: `image,class,p`, and for each further answer `class_2,p_2` and so on."""
    noun = next(iter(found[0]))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    more = range(2, len(found[0]["answers"]) + 1)
    lines.writerow([noun, "class", "p", *(name for rank in more for name in (f"class_{rank}", f"p_{rank}"))])
    for item in found:
        lines.writerow([item[noun], *(value for answer in item["answers"] for value in (answer["class"], f"{answer['p']:.6f}"))])
    return text.getvalue().removesuffix("\n")
