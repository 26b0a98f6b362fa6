"""`distillctl models`: what can be named as a teacher or a student; with `costs=true` or `taps=NAME`, what a net is like. No torch without these."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from distillctl.config import ModelsConfig
from distillctl.errors import ConfigError, nearest
from distillctl.models import catalogue
from distillctl.report.console import Console, Table


def run(config: ModelsConfig, folder: Path | None) -> None:
    """Lists the featured models, or those that match `search`; with `taps` the places of one model."""
    if config.taps is not None:
        from distillctl.commands.anatomy import list_taps

        list_taps(config.taps, config, Console())
    else:
        list_models(config, Console())


def list_models(config: ModelsConfig, console: Console) -> None:
    if config.costs:  # each net is built for them, which takes PyTorch, and timm where it is timm's
        from distillctl.commands.anatomy import costs

    found = matching(config)
    table = Table()
    for heading in ("model", "source", *(("params", "MACs", "stem") if config.costs else ())):
        table.add_column(heading, justify="right" if heading in ("params", "MACs") else "left")
    for name, source in list(found.items())[: config.limit]:
        table.add_row(name, source, *(costs(name, source, config) if config.costs else ()))
    console.table(table)
    counted = f", for {config.classes} classes at {config.image_size} px" if config.costs else "; with parameters and MACs: costs=true"
    console.say(f"{min(len(found), config.limit)} of {len(found)} models{counted}")
    if len(found) > config.limit:
        console.say(f"for more: limit={len(found)}; to narrow: search=<part of a name, or a pattern with *>")
    if config.search is None:
        console.say(f"these are the usual ones, of {len(catalogue.model_names())} that work: search=<part of a name>")


def matching(config: ModelsConfig) -> dict[str, str]:
    """Name and source of what is asked for, the nets of the CIFAR benchmark first."""
    everything = catalogue.model_names(None if config.source == "auto" else config.source)
    if config.search is None:
        return {name: everything[name] for name in catalogue.FEATURED if name in everything} or everything
    found = {name: source for name, source in everything.items() if fits(name, config.search)}
    if not found:
        close = nearest(config.search, everything)
        way_out = (
            f"did you mean {', '.join(close)}?" if close else "try a shorter part of the name, or distillctl models for the usual ones"
        )
        raise ConfigError(f"search={config.search}: no model has that in its name; {way_out}")
    return dict(sorted(found.items(), key=lambda item: (catalogue.SOURCES.index(item[1]), item[0])))


def fits(name: str, search: str) -> bool:
    """Whether `search`, a part of a name or a pattern, finds this one; cases do not matter."""
    pattern = search.lower()
    return fnmatch.fnmatch(name.lower(), pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*")
