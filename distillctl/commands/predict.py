"""`distillctl predict`: class names and probabilities for images, as a table, as JSON lines or as CSV. Torch is imported where a net is built alone."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.commands.given import named_as_given, recorded, with_checkpoint
from distillctl.commands.predictor import FilePredictor, Item, Predictor, answers_alone
from distillctl.config import PredictConfig
from distillctl.config.training import at_once
from distillctl.data.image.files import shown
from distillctl.errors import ConfigError, DataError
from distillctl.models.record import Record
from distillctl.paths import as_path
from distillctl.report.console import Console, Table
from distillctl.terminal import cell, say


def run(config: PredictConfig, folder: Path | None) -> None:
    """Prints one row an image. A file that cannot be read has a row that says why; the exit code is then that of bad data, after all rows."""
    with named_as_given():
        predict(config)


def predict(config: PredictConfig) -> None:
    model = with_checkpoint(config.model, config.checkpoint)
    file, record = recorded(config.checkpoint, "names its classes; train with distillctl, or keep its .json")
    with contextlib.ExitStack() as stack:
        predictor: Predictor
        if answers_alone(record, model):
            predictor = FilePredictor(file, record, config)
        else:
            from distillctl.commands.net_predictor import NetPredictor
            from distillctl.runtime import open_runtime

            predictor = NetPredictor(record, model, config, stack.enter_context(open_runtime(config.trainer)))
        items = list(expand(config.inputs, predictor))
        predictor.prepare()
        found = list(answered(items, predictor, record, config))
    print_found(found, config.format, predictor.noun)


def answered(items: list[Item], predictor: Predictor, record: Record, config: PredictConfig) -> Iterator[dict[str, Any]]:
    """A row for each sample, in their order."""
    size, noun = at_once(config.trainer), predictor.noun.removesuffix("s")
    for start in range(0, len(items), size):
        chunk = items[start : start + size]
        samples, problems = read(chunk, predictor)
        answers = iter(()) if samples is None else best(predictor.probabilities(samples), record.classes, config.top_k)
        for place, item in enumerate(chunk):
            yield {noun: item.name, **(problems[place] if place in problems else next(answers))}


def best(probabilities: np.ndarray, classes: tuple[str, ...], count: int) -> Iterator[dict[str, Any]]:
    """The likeliest classes of each row [N, K], the first of equals first."""
    for row in probabilities:
        order = np.argsort(-row, kind="stable")[:count]
        yield {"answers": [{"class": classes[place], "p": float(row[place])} for place in order]}


def read(items: list[Item], predictor: Predictor) -> tuple[Any, dict[int, dict[str, Any]]]:
    """Those samples that can be read, None where none can, and the rows of the others by their places."""
    try:
        return predictor.read([item.what for item in items]), {}
    except DataError:  # one by one, to see which
        samples, problems = [], {}
    for place, item in enumerate(items):
        try:
            samples.append(predictor.read([item.what]))
        except DataError as problem:
            problems[place] = {"answers": [], "error": str(problem).removeprefix(f"{shown(item.name)}: ")}
    return predictor.joined(samples) if samples else None, problems


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


def expand(given: list[str], predictor: Predictor) -> Iterator[Item]:
    """Files as given, folders as the samples below them, in a stable order; of kinds that have many samples in a file those, and - for what is piped in."""
    if not given:
        raise ConfigError("inputs is empty: pass inputs=[image.png] or inputs=[folder], of texts inputs=[texts.csv] or inputs=[-]")
    for name in given:
        path = as_path(name)
        if name == "-":
            if (rows := predictor.rows(None)) is None:
                raise ConfigError(f"inputs=-: {predictor.noun} are read from files; name them")
            yield from some_of(rows, name, predictor)
        elif path.is_dir():
            inside, others = predictor.files_below(path)
            if not inside:
                raise DataError(f"inputs={name}: no {predictor.noun} in this folder{others}")
            for file in inside:
                yield from of_file(file, predictor)
        elif path.exists():
            yield from some_of(of_file(path, predictor), name, predictor)
        else:
            raise DataError(f"inputs={name}: no such file")


def some_of(items: Iterable[Item], name: str, predictor: Predictor) -> Iterator[Item]:
    """Raises DataError where there is none."""
    item = None
    for item in items:
        yield item
    if item is None:
        raise DataError(f"inputs={name}: no {predictor.noun} in it")


def of_file(file: Path, predictor: Predictor) -> Iterable[Item]:
    rows = predictor.rows(file)
    return [Item(str(file), file)] if rows is None else rows


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
