"""What `distillctl models` says of a net that it has to build: its taps, its parameters and MACs. Nothing is computed."""

from __future__ import annotations

import torch

from distillctl.commands.models import fits
from distillctl.config import ModelConfig, ModelsConfig
from distillctl.errors import ConfigError, UserError, did_you_mean
from distillctl.metrics import cost
from distillctl.metrics.metric import count
from distillctl.models.net import SMALL, plan_net
from distillctl.models.taps import LOGITS, short_shapes, tapped_shapes
from distillctl.models.trace import pixels
from distillctl.report.console import Console, Table


def list_taps(name: str, config: ModelsConfig, console: Console) -> None:
    """The short names of a model's taps, and the paths of its modules, with the shape that each gives for one image."""
    try:
        net = plan_net(ModelConfig(name=name, source=config.source), config.classes, config.image_size, "taps")
    except ConfigError as error:  # it speaks of keys that a teacher or a student has
        raise ConfigError(str(error).replace("taps.stem=large", f"image_size={SMALL}").replace("taps.image_size", "image_size")) from None
    assert net.input_size is not None, name
    example = pixels(net.input_size)
    modules = {path: shape for path, shape in tapped_shapes(net.module, example) if shape[:1] == (1,)}  # else not an image's own
    found = {path: shape for path, shape in modules.items() if config.search is None or fits(path, config.search)}
    if not found:
        raise ConfigError(
            f"search={config.search}: {name} has no module with that in its path; {did_you_mean(str(config.search), modules)}"
        )
    if config.search is None:
        short = Table()
        for heading in ("short name", "what it stands for", "shape"):
            short.add_column(heading)
        for tap, place, shape in short_shapes(net.module, example):
            short.add_row(tap, place.meaning, shown(shape))
        short.add_row(LOGITS, "the answer", shown((1, config.classes)))
        console.table(short)
    table = Table()
    table.add_column("module")
    table.add_column("shape")
    for path, shape in list(found.items())[: config.limit]:
        table.add_row(path, shown(shape))
    console.table(table)
    stem = "" if net.source == "cifar" else f" with the {net.stem} stem"
    console.say(
        f"{min(len(found), config.limit)} of {len(found)} modules of {name}{stem}, for {config.classes} classes at {net.input_size} px"
    )
    if len(found) > config.limit:
        console.say(f"for more: limit={len(found)}; to narrow: search=<part of a path, or a pattern with *>")
    console.say("to tap: loss.at.student=[stage1,stage2] loss.at.teacher=[stage1,stage2], or paths of modules")


def shown(shape: tuple[int, ...]) -> str:
    """A shape without its batch."""
    return " x ".join(map(str, shape[1:]))


def costs(name: str, source: str, config: ModelsConfig) -> tuple[str, str, str]:
    """Parameters and MACs without computing anything; a dash where the net cannot take images of this size."""
    try:
        net = plan_net(ModelConfig(name=name, source=source), config.classes, config.image_size, "search")
    except UserError:
        return "-", "-", f"not at {config.image_size} px"
    assert net.input_size is not None, name
    try:
        example = pixels(net.input_size)(torch.device("meta"), torch.float32)
        macs = count(cost.macs(net.module, example))
    except RuntimeError:  # a forward that looks at values
        macs = "-"
    return count(cost.parameters(net.module)), macs, "" if source == "cifar" else net.stem
