"""`distillctl losses`, `methods` and `strategies`: what can be named, a line each. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from distillctl.compose import options
from distillctl.compose.reference import Option, options_of
from distillctl.config import LossesConfig, MethodsConfig, OptionsConfig, StrategiesConfig
from distillctl.errors import ConfigError, did_you_mean
from distillctl.report.console import Console

NEXT_TO_NOTHING = "< 1 %"  # what a loss costs whose file says nothing
COSTS = {
    "loss": "costs: of the student's own step (resnet8x4 at 32 px, fp32), the teacher's pass not counted; several at once: loss=[kd,at]",
    "method": "costs: beside the student's own step",
    "strategy": "costs: beside the student's own step on new samples",
}
SOURCES = {"loss": "docs/methods.md", "method": "docs/methods.md", "strategy": "docs/lifelong.md"}
GROUPS = {LossesConfig: ("loss", "train"), MethodsConfig: ("method", "train"), StrategiesConfig: ("strategy", "lifelong")}


def run(config: OptionsConfig, folder: Path | None) -> None:
    """Those in whose line `search` is found, or all."""
    group, command = GROUPS[type(config)]
    found = [option for option in options_of(group) if fits(option, config.search)]
    if not found:
        raise ConfigError(f"search={config.search}: no {group} says that; {did_you_mean(str(config.search), options(group))}")
    console = Console()
    for line in lines(found):
        console.line(line)
    console.say(COSTS[group])
    console.say(
        f"whole, with its keys and weights: distillctl {command} --help={group}.{found[0].name}; formulas and sources: {SOURCES[group]}"
    )


def lines(found: Sequence[Option]) -> Iterator[str]:
    """One for each option: its name, what it reads, what it costs, what it is."""
    rows = [[option.name, option.reads, option.costs or NEXT_TO_NOTHING] for option in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, option in zip(rows, found, strict=True):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width]
        yield "  ".join([*cells, option.summary])


def fits(option: Option, search: str | None) -> bool:
    words = f"{option.name} {option.reads} {option.summary}".lower()
    return search is None or search.lower() in words
