"""The part of a plan that searches for a file within a budget: levels of cutting from mild to strong, each tried before it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from distillctl.config import OF_FORMAT, CompressConfig, ExportStepConfig, PruneConfig, QuantizeConfig, home_of
from distillctl.metrics.metric import count
from distillctl.runs.draft import Draft
from distillctl.runs.smaller import files_of, precision_of, taught_again
from distillctl.runs.sources import Given, MadeBy, Source
from distillctl.runs.steps import Row, Trial

SHARES = (0.75, 0.5, 0.35, 0.25)  # of the multiply-accumulates, that stay
UNDER = 0.97  # of a share that is asked for: channels are whole, so the nearest that can be cut may lie above it


@dataclass(frozen=True)
class Level:
    """name: in words. tail: of its steps' names. prune: what is cut; None of the student as it is."""

    name: str
    tail: str
    prune: PruneConfig | None = None


def searched(draft: Draft, config: CompressConfig, student: Given, teacher: Source | None) -> str:
    """All levels, of which the run does as many as it takes. Returns the row of the first, which is final until the run knows better."""
    config = replace(config, export=export_of(config), quantize=quantize_of(config))
    levels = list(levels_of(config))
    draft.transform("survey", "survey", student, config.budget, suffix="")
    for number, level in enumerate(levels):
        milder = tuple(f"level{other.tail}" for other in levels[:number])
        trial = Trial(level.name, level.prune, config.export, config.quantize, rows_of(draft, config, level), milder, level is levels[-1])
        draft.transform(f"level{level.tail}", "level", student, trial, **({} if level.prune else {"suffix": ""}))
    for level in levels:
        climbed(draft, config, student, teacher, level)
    draft.notes.append(
        f"a search for a file within the budget, at levels {', '.join(level.name for level in levels)} of the student's multiply-accumulates; "
        "the first that meets it is kept"
    )
    return next(row.name for row in draft.rows if row.name.endswith(levels[0].name))


def climbed(draft: Draft, config: CompressConfig, student: Given, teacher: Source | None, level: Level) -> None:
    """What is done of a level once it was tried: trained again, written, judged."""
    first, model = len(draft.steps), student if level.prune is None else MadeBy(f"level{level.tail}")
    if level.prune is not None and config.distill.epochs:
        model, _ = taught_again(draft, config, model, teacher, level.tail)
    exported, quantized = files_of(draft, config, model, teacher, level.tail)
    rows = rows_of(draft, config, level)
    draft.rows.append(Row(f"fp32 {level.name}", "student", exported, own=True))
    if quantized is not None:
        draft.rows.append(Row(f"{precision_of(config.quantize.name)} {level.name}", "student", quantized, own=True))
    trial = Trial(level.name, level.prune, config.export, config.quantize, rows)
    draft.transform(f"judge{level.tail}", "judge", quantized or exported, trial, suffix="", reference=exported)
    draft.steps[first:] = [replace(step, level=level.name) for step in draft.steps[first:]]


def levels_of(config: CompressConfig) -> Iterator[Level]:
    """From the student as it is to the strongest; without those that have more multiply-accumulates than a share that the budget allows."""
    keys, share = config.prune, config.budget.macs
    most = share if share is not None and share < 1 else None
    by = replace(keys, name="magnitude" if keys.name == "none" else keys.name)
    if most is None:
        yield Level("100%", "-100")
    if keys.target_macs is not None and keys.target_macs > 1:
        yield Level(f"{count(keys.target_macs)} MACs", f"-{keys.target_macs:.0f}-macs", by)
    elif keys.target_macs is not None:
        yield of_share(by, keys.target_macs)
    elif keys.ratio != PruneConfig.ratio:
        yield Level(f"ratio {keys.ratio:g}", f"-ratio-{keys.ratio:g}", by)
    else:
        if most is not None:
            yield of_share(by, most * UNDER, most)
        yield from (of_share(by, each) for each in SHARES if most is None or each < most * UNDER)


def of_share(keys: PruneConfig, target: float, named: float | None = None) -> Level:
    """named: the share that it is called by, where it aims at a little less."""
    shown = f"{100 * (named or target):g}"
    return Level(f"{shown}%", f"-{shown}", replace(keys, target_macs=target))


def rows_of(draft: Draft, config: CompressConfig, level: Level) -> dict[str, bool]:
    """The files of a level that may be kept, whether each is of smaller numbers: that of the quantiser which is named, else both."""
    named = draft.config.quantize.name not in ("none", "auto")
    rows = {} if named else {f"fp32 {level.name}": False}
    if config.quantize.name != "none":
        rows[f"{precision_of(config.quantize.name)} {level.name}"] = True
    return rows


def export_of(config: CompressConfig) -> ExportStepConfig:
    """The format that is asked for; else the one that has the quantiser."""
    if config.export.format != "none":
        return config.export
    return replace(config.export, format=home_of(config.quantize.name))


def quantize_of(config: CompressConfig) -> QuantizeConfig:
    """The quantiser that is named, else static where the format has it. What may be lost is what the budget says, and agreement is no matter of it."""
    keys, file = config.quantize, export_of(config).format
    if keys.name in ("none", "auto"):
        keys = replace(keys, name="static" if "static" in OF_FORMAT.get(file, ()) else "none")
    usual = QuantizeConfig()
    drop = config.budget.max_drop if keys.max_drop == usual.max_drop else keys.max_drop
    return replace(keys, max_drop=drop, min_agreement=0.0 if keys.min_agreement == usual.min_agreement else keys.min_agreement)
