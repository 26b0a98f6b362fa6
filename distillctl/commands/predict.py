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
from distillctl.data.image.files import shown
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
from distillctl.runs.bundle import at_once
from distillctl.terminal import cell, say
from distillctl.types import Inputs, concatenated, to


def run(config: PredictConfig, folder: Path | None) -> None:
    """Prints one row an image. A file that cannot be read has a row that says why; the exit code is then that of bad data, after all rows."""
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
        size = at_once(config.trainer)
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            readable, problems = read(chunk, inputs, config)
            rows = dict(problems)
            if readable is not None:
                with torch.inference_mode(), machine.autocast():
                    probabilities = classifier(to(readable, machine.device)).logits.float().softmax(-1).cpu()
                best = probabilities.topk(min(config.top_k, len(classes)))
                answered = [path for path in chunk if path not in problems]
                for path, values, positions in zip(answered, best.values.tolist(), best.indices.tolist(), strict=True):
                    rows[path] = {"answers": [{"class": classes[p], "p": v} for p, v in zip(positions, values, strict=True)]}
            found += [{inputs.noun.removesuffix("s"): str(path), **rows[path]} for path in chunk]
    print_found(found, config.format, inputs.noun)


def read(files: list[Path], inputs: Contract, config: PredictConfig) -> tuple[Inputs | None, dict[Path, dict[str, Any]]]:
    """The samples of those files that can be read, None where none can, and the rows of the others."""
    try:
        return inputs.read(files, config), {}
    except DataError:  # one by one, to see which
        samples, problems = [], {}
    for file in files:
        try:
            samples.append(inputs.read([file], config))
        except DataError as problem:
            problems[file] = {"answers": [], "error": str(problem).removeprefix(f"{shown(file)}: ")}
    return concatenated(samples) if samples else None, problems


def print_found(found: list[dict[str, Any]], form: str, noun: str) -> None:
    """All rows; then, where some are of files that cannot be read, a DataError that counts them."""
    bad = [row for row in found if "error" in row]
    if len(found) > len(bad) or form != "table":
        print_answers(found, form)
    if bad:
        name, reason = next(iter(bad[0].values())), bad[0]["error"]
        raise DataError(
            f"{shown(name)}: {reason}"
            if len(found) == 1
            else f"{len(bad)} of {len(found)} {noun} cannot be read; the first: {shown(name)}: {reason}"
        )


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
            inside, others = inputs.files_below(path)
            if not inside:
                raise DataError(f"inputs={name}: no {inputs.noun} in this folder{others}")
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
        if "error" in item:
            table.add_row(item[noun], "-", "-", item["error"])
            continue
        first, *rest = item["answers"]
        table.add_row(item[noun], first["class"], f"{first['p']:.3f}", ", ".join(f"{other['class']} {other['p']:.3f}" for other in rest))
    Console().table(table)


def as_csv(found: list[dict[str, Any]]) -> str:
    """A line a sample, all with the columns of the heading: `image,class,p`, for each further answer `class_2,p_2` and so on, and `error` where one is."""
    noun = next(iter(found[0]))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    columns = max(len(item["answers"]) for item in found)
    names = [name for rank in range(1, columns + 1) for name in (("class", "p") if rank == 1 else (f"class_{rank}", f"p_{rank}"))]
    with_errors = any("error" in item for item in found)
    lines.writerow([noun, *names, *(["error"] if with_errors else [])])
    for item in found:
        cells = [value for answer in item["answers"] for value in (answer["class"], f"{answer['p']:.6f}")]
        if with_errors:
            cells += [""] * (len(names) - len(cells)) + [item.get("error", "")]
        lines.writerow(map(cell, [item[noun], *cells]))
    return text.getvalue().removesuffix("\n")
