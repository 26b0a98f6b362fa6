"""Make one quantised file, or each that can be made here, measure all in turn with the fp32 file on validation, and choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from distillctl.compress.quantize.choice import FP32, Choice, Verdict, decide, slow
from distillctl.compress.quantize.dynamic import write_dynamic
from distillctl.compress.quantize.figures import Candidate, Figures, measured
from distillctl.compress.quantize.graph import check_names, read
from distillctl.compress.quantize.ranges import Ranges, calibrate
from distillctl.compress.quantize.samples import Samples, calibrating
from distillctl.compress.quantize.sensitivity import Kept, find_kept
from distillctl.compress.quantize.session import answer_of
from distillctl.compress.quantize.static import write_static
from distillctl.compress.quantize.weights import STORES, write_weights
from distillctl.config.deploy import QuantizeConfig, kept_names
from distillctl.errors import ConfigError, UserError, did_you_mean
from distillctl.metrics.latency import Spread, times_as_fast

SINGLE = ("static", "dynamic", *STORES)


SMALLER = 0.9  # of the size, up to where a file counts as smaller


class NothingToKeep(UserError):
    """A file with layers in float would be the one without."""


@dataclass(frozen=True)
class Task:
    """source: the fp32 file. folder: for what is made of it. Samples are as its input takes them; targets int64 [N] of validation, or None."""

    source: Path
    folder: Path
    calibration: Samples
    validation: Samples
    targets: Tensor | None
    config: QuantizeConfig


Maker = Callable[[Task], Candidate]  # raises UserError where it cannot be made here


def choose(task: Task, makers: Mapping[str, Maker] | None = None) -> tuple[Choice, Path]:
    """The choice, and the file that was chosen. makers: of candidates in other formats, by their names.

    Raises DataError for samples that cannot calibrate, and ConfigError for names of layers that the file has not.
    """
    model = read(task.source)
    named = names_to_keep(task.config)
    check_names(model, named or ())
    chosen, note = calibrating(task.calibration, task.config.samples)
    ranges = calibrate(model, chosen, task.config.calibration)
    candidates, left_out = [of_file(FP32, task.source)], {}
    for name, make in {**standard(ranges, named), **(makers or {})}.items():
        try:
            candidates.append(make(task))
        except NothingToKeep:
            continue
        except UserError as error:
            left_out[name] = str(error)
    figures = measured(candidates, task.validation, task.targets)
    choice = decide(figures, max_drop=task.config.max_drop, min_agreement=task.config.min_agreement)
    file = next(candidate.file for candidate in candidates if candidate.name == choice.name)
    notes = (note, *(candidate.note for candidate in candidates))
    return replace(choice, left_out=left_out, notes=tuple(filter(None, notes))), file


def make(task: Task) -> tuple[Verdict, Path, tuple[str, ...]]:
    """The file of the one quantiser that `quantize` names, what is to be thought of it, and what else is to be said.

    Its problem, if it has one, is about answers alone: whoever names a quantiser may want a smaller file, and not a faster one.
    """
    config = task.config
    if config.name not in SINGLE:
        raise ConfigError(f"quantize={config.name}: no file of onnxruntime's is made so; {did_you_mean(config.name, SINGLE)}")
    notes: list[str | None] = []
    if config.name == "static":
        made = kept_static(task, notes)
    elif config.name == "dynamic":
        made = of_file("dynamic", write_dynamic(task.source, target(task, "dynamic"), per_channel=config.per_channel))
    else:
        made = of_file(config.name, write_weights(task.source, target(task, config.name), config.name))
    fp32, figures = measured([of_file(FP32, task.source), made], task.validation, task.targets)
    times = times_as_fast(fp32.rounds_ms, figures.rounds_ms)
    problem = figures.quality.problem(fp32.quality, config.max_drop, config.min_agreement) or needless(fp32, figures, times)
    return Verdict(figures, times, problem), made.file, tuple(filter(None, notes))


def needless(fp32: Figures, figures: Figures, times: Spread) -> str | None:
    """What is to be said of a file that is neither smaller, by a tenth, nor faster: most of its numbers are what they were."""
    if figures.size <= SMALLER * fp32.size or slow(times) is None:
        return None
    return f"neither smaller ({figures.size / 1e6:.2f} MB of {fp32.size / 1e6:.2f}) nor faster"


def kept_static(task: Task, notes: list[str | None]) -> Candidate:
    """Static int8 with the layers in float that are named, or that validation says to keep, as many as help."""
    config, model = task.config, read(task.source)
    named = names_to_keep(config)
    check_names(model, named or ())
    chosen, note = calibrating(task.calibration, config.samples)
    ranges = calibrate(model, chosen, config.calibration)
    notes.append(note)
    if named is None:
        kept = kept_of(task, ranges)
        named = list(kept.nodes)
        notes.append(f"quantize.keep_float=auto: {kept.sentence}")
    return of_file("static", write_static(task.source, target(task, "static"), ranges, named, per_channel=config.per_channel))


def names_to_keep(config: QuantizeConfig) -> list[str] | None:
    try:
        return kept_names(config.keep_float)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def standard(ranges: Ranges, named: list[str] | None) -> dict[str, Maker]:
    """What onnxruntime alone makes."""

    def static(task: Task) -> Candidate:
        return of_file("static", write_static(task.source, target(task, "static"), ranges, per_channel=task.config.per_channel))

    def static_kept(task: Task) -> Candidate:
        names, note = (named, None) if named is not None else found(task, ranges)
        file = write_static(task.source, target(task, "static_kept"), ranges, names, per_channel=task.config.per_channel)
        return replace(of_file("static_kept", file), note=note)

    def dynamic(task: Task) -> Candidate:
        return of_file("dynamic", write_dynamic(task.source, target(task, "dynamic"), per_channel=task.config.per_channel))

    def fp16(task: Task) -> Candidate:
        return of_file("fp16", write_weights(task.source, target(task, "fp16"), "fp16"))

    makers: dict[str, Maker] = {"static": static, "static_kept": static_kept, "dynamic": dynamic, "fp16": fp16}
    return {name: make for name, make in makers.items() if name != "static_kept" or named != []}


def found(task: Task, ranges: Ranges) -> tuple[tuple[str, ...], str]:
    """Layers that validation says to keep, and the sentence about them. Raises ConfigError where none need to be, and where no set would do."""
    kept = kept_of(task, ranges)
    sentence = f"quantize.keep_float=auto: {kept.sentence}"
    if kept.problem:
        raise ConfigError(sentence)
    if not kept.nodes:
        raise NothingToKeep(sentence)
    return kept.nodes, sentence


def kept_of(task: Task, ranges: Ranges) -> Kept:
    config = task.config
    return find_kept(
        read(task.source),
        ranges,
        task.validation,
        task.targets,
        max_drop=config.max_drop,
        min_agreement=config.min_agreement,
        per_channel=config.per_channel,
    )


def target(task: Task, name: str) -> Path:
    return task.folder / f"{name}.onnx"


def of_file(name: str, file: Path) -> Candidate:
    return Candidate(name, file, answer_of(file))
