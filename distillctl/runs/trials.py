"""The steps of a search for a file within a budget: what the student is worth at first, what a level would cost untrained, what its files are."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distillctl.compress.budget import Candidate, Limits, in_words, limits_of, meets, nearest_level, problem, untrained_in_words
from distillctl.compress.quantize import auto
from distillctl.errors import ConfigError, DataError
from distillctl.formats import format_of
from distillctl.metrics import cost
from distillctl.metrics.answers import own_answers
from distillctl.metrics.artifact import file_mb
from distillctl.metrics.latency import Spread, latencies, spread
from distillctl.metrics.quality import top_k_accuracy
from distillctl.models.obtain import Obtained, obtain
from distillctl.runs import exporting, pruning
from distillctl.runs.artifact import Work
from distillctl.runs.quantizing import as_taken
from distillctl.runs.sources import Given, start_from
from distillctl.runs.steps import Trial

SURVEY = "survey"
TRIES = 3  # at a latency whose rounds agree
FEW = 16  # validation images, where it does not matter what is answered
STANDS_FOR_QAT = 0.9  # of the size and the time of a file by static ranges: one that was trained for 8 bits may have a few nodes less


def survey(work: Work) -> dict[str, Any]:
    """What the student is worth that the run begins with, on the validation split, and its multiply-accumulates."""
    if not work.labelled:
        raise DataError("budget.max_drop: the validation samples have no labels to measure accuracy by; give a data set that has")
    macs = exporting.macs_of(work)
    if macs is None and work.step.settings.macs is not None:
        raise ConfigError(
            f"budget.macs={work.step.settings.macs:g}: the path of {work.model.net.name} depends on values, so there is no one count"
        )
    logits, targets = work.answers
    accuracy = top_k_accuracy(logits, targets, 1)
    work.session.console.say(f"survey: the student has top-1 {accuracy:.2%} on {len(targets):,} validation {work.bundle.inputs.noun}")
    return {"file": False, "accuracy": accuracy, "n": len(targets), "macs": macs}


def level(work: Work) -> dict[str, Any]:
    """Cut the student, and see what the files of that would cost, which depends on weights little, before anything is trained.

    Behind a level that can meet the budget nothing is measured: what is smaller should meet it too, and is judged once it is made.
    """
    trial: Trial = work.step.settings
    milder = [work.session.stage_record(name) or {} for name in trial.milder]
    inner, files = work, list[Candidate]()
    cut: dict[str, Any] = {"file": False}
    why = ""
    over: float | None = 0.0  # None: it cannot be made
    try:
        if trial.prune is not None:
            inner = replace(work, step=replace(work.step, settings=trial.prune))
            cut = {"file": True, **pruning.prune(inner)}
        if all(each["problem"] for each in milder):
            files = untrained(inner, trial)
            why, over = problem(files, limits(work)) if files else ("", 0.0)
            work.session.console.say(f"{work.step.name}: {f'no, {why}' if why else costs(files, limits(work))}")
    except ConfigError as error:  # of a net that cannot be cut so, or not written
        why, over = str(error), None
        work.session.console.say(f"{work.step.name}: no, {why}")
    found = {**cut, "problem": why, "over": over, "figures": [file.to_json() for file in files]}
    if trial.last:
        check_whether_any(work, {**dict(zip(trial.milder, milder, strict=True)), work.step.name: found})
    return found


def costs(files: Iterable[Candidate], asked: Limits) -> str:
    """What each file would cost, as far as anything is asked of that."""
    return "; ".join(untrained_in_words(file, asked) for file in files) or "its files are measured once they are made"


def check_whether_any(work: Work, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Behind the last level: say so where none can meet the budget. Raises ConfigError where none can even be made."""
    if not all(each["problem"] for each in known.values()):
        return
    possible = {name: each["over"] for name, each in known.items() if each["over"] is not None}
    if not possible:
        raise ConfigError(known[work.step.name]["problem"])
    nearest = nearest_level(possible)
    work.session.console.warn(f"no level can meet the budget; the nearest, {nearest}, is made all the same: {known[nearest]['problem']}")


def untrained(work: Work, trial: Trial) -> list[Candidate]:
    """The files of a level that may be kept; none where they cannot be had without training it. Latencies are the least that rounds say."""
    asked, macs, scratch = limits(work), exporting.macs_of(work), work.folder / "candidates"
    if set(asked.asked) == {"macs"}:
        return [Candidate(name, trial.level, 0.0, 0.0, macs) for name in trial.rows]
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    files = written(work, trial, scratch)
    if not set(trial.rows) <= set(files):
        return []
    nets = {name: files[name] for name in trial.rows}
    rounds = timed(work, nets) if asked.latency_ms is not None else {}
    share = STANDS_FOR_QAT if trial.quantize.name == "qat" else 1.0
    found = [
        Candidate(name, trial.level, share * file_mb(file), share * rounds[name].low if rounds else None, macs)
        for name, file in nets.items()
    ]
    shutil.rmtree(scratch)
    return found


def written(work: Work, trial: Trial, folder: Path) -> dict[str, Path]:
    """The fp32 file of a level, and that of smaller numbers with no layer kept in float, by the names of their rows."""
    kind, keys = format_of(trial.export.format), trial.quantize
    source = folder / f"source{kind.suffix}"
    exporting.write(work, kind, trial.export, exporting.record_of(work, kind, trial.export, fitted=False), file=source)
    found = {f"fp32 {trial.level}": source}
    small = next((name for name, smaller in trial.rows.items() if smaller), "")
    config = replace(keys, name="static" if keys.name == "qat" else keys.name, keep_float="none")
    if small and config.name in auto.SINGLE:
        fp32 = opened(work, source)
        seen = as_taken(fp32, work.validation(FEW))
        _, found[small], _ = auto.make(auto.Task(source, folder, as_taken(fp32, work.training(keys.samples)), seen, None, config))
    return found


def judge(work: Work) -> dict[str, Any]:
    """The figures of a level's files, and whether one meets the budget."""
    trial: Trial = work.step.settings
    asked, before = limits(work), work.session.stage_record(SURVEY) or {}
    files = {name: file_of(work.step.model if smaller else work.step.reference) for name, smaller in trial.rows.items()}
    rounds = timed(work, files) if asked.latency_ms is not None else {}
    found, accuracies = [], {}
    for name, file in files.items():
        net = opened(work, file).classifier
        accuracies[name] = top_k_accuracy(*own_answers(net, work.validation()), 1)
        time = rounds.get(name)
        latency = None if time is None else time.middle if time.repeats else time.high
        macs = cost.macs(net, work.bundle.inputs.example(1, torch.device("cpu"))) if asked.macs is not None else None
        drop = before["accuracy"] - accuracies[name]
        found.append(Candidate(name, trial.level, file_mb(file), latency, macs, drop, time is None or time.repeats))
        verdict = "meets the budget" if meets(found[-1], asked) else "does not meet the budget"
        work.session.console.say(f"{work.step.name}: {name} {verdict}: {in_words(found[-1], asked)}")
    figures = [each.to_json() for each in found]
    return {"file": False, "met": any(meets(each, asked) for each in found), "figures": figures, "accuracies": accuracies}


def limits(work: Work) -> Limits:
    return limits_of(work.session.config.budget, (work.session.stage_record(SURVEY) or {}).get("macs"))


def timed(work: Work, files: Mapping[str, Path]) -> dict[str, Spread]:
    """Of one image on one thread, the files in turn; again where rounds do not agree."""
    nets = {name: opened(work, file).classifier for name, file in files.items()}
    found: dict[str, Spread] = {}
    for _ in range(TRIES):
        tried = {name: spread(each) for name, each in latencies(nets, work.bundle.inputs.example(1, torch.device("cpu"))).items()}
        found = {name: min(each, found.get(name, each), key=lambda one: one.relative) for name, each in tried.items()}
        if all(each.repeats for each in found.values()):
            break
    return found


def opened(work: Work, file: Path) -> Obtained:
    """A file as a model, in its own runtime."""
    given = work.step.model
    assert isinstance(given, Given), given
    found = obtain(start_from(given.model, file), work.bundle.inputs, work.step.role, work.step.seed)
    found.classifier.eval()
    return found


def file_of(source: Any) -> Path:
    assert isinstance(source, Given), source
    assert source.model.checkpoint is not None
    return Path(source.model.checkpoint)
