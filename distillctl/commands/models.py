"""`distillctl models`: what can be named as a teacher or a student, with what it costs."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from distillctl.config import ModelConfig, ModelsConfig
from distillctl.errors import ConfigError, UserError, nearest
from distillctl.metrics import cost
from distillctl.models import catalogue
from distillctl.models.build import plan_net
from distillctl.report.console import Console
from distillctl.report.results import count


def run(config: ModelsConfig, folder: Path | None) -> None:
    """Lists the featured models, or those that match `search`."""
    found = matching(config)
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "source", "params", "MACs", "stem"):
        table.add_column(heading, justify="right" if heading in ("params", "MACs") else "left")
    for name, source in list(found.items())[: config.limit]:
        table.add_row(name, source, *costs(name, source, config))
    console.table(table)
    console.say(f"{min(len(found), config.limit)} of {len(found)} models, for {config.classes} classes at {config.image_size} px")
    if len(found) > config.limit:
        console.say(f"for more: limit={len(found)}; to narrow: search=<part of a name, or a pattern with *>")
    if config.search is None:
        console.say(f"these are the usual ones, of {len(catalogue.names())} that work: search=<part of a name>")


def matching(config: ModelsConfig) -> dict[str, str]:
    """Name and source of what is asked for, the nets of the CIFAR benchmark first."""
    everything = catalogue.names(None if config.source == "auto" else config.source)
    if config.search is None:
        return {name: everything[name] for name in catalogue.FEATURED if name in everything} or everything
    pattern = config.search.lower()
    wanted = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    found = {name: source for name, source in everything.items() if fnmatch.fnmatch(name.lower(), wanted)}
    if not found:
        close = nearest(config.search, everything)
        way_out = (
            f"did you mean {', '.join(close)}?" if close else "try a shorter part of the name, or distillctl models for the usual ones"
        )
        raise ConfigError(f"search={config.search}: no model has that in its name; {way_out}")
    return dict(sorted(found.items(), key=lambda item: (catalogue.SOURCES.index(item[1]), item[0])))


def costs(name: str, source: str, config: ModelsConfig) -> tuple[str, str, str]:
    """Parameters and MACs without computing anything; a dash where the net cannot take images of this size."""
    try:
        net = plan_net(ModelConfig(name=name, source=source), config.classes, config.image_size, "search")
    except UserError:
        return "-", "-", f"not at {config.image_size} px"
    example = torch.zeros(1, 3, net.input_size, net.input_size, device="meta")
    try:
        macs = count(cost.macs(net.module, example))
    except RuntimeError:  # a forward that looks at values
        macs = "-"
    return count(cost.parameters(net.module)), macs, "" if source == "cifar" else net.stem
