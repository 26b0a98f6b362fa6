"""Keys that are short for others."""

from __future__ import annotations

from typing import Any

from distillctl.config.rules import home_of
from distillctl.config.schema import CompressConfig, Deploys, ExportConfig
from distillctl.errors import ConfigError


def spell_out(config: Any) -> None:
    """Give what a short key says to the long one, in place. Raises ConfigError where both are given and differ."""
    if isinstance(config, ExportConfig):
        config.model.checkpoint = one_of("checkpoint", config.checkpoint, "model.checkpoint", config.model.checkpoint)
        long = config.export.format
        named = one_of("format", config.format, "export.format", None if long == "none" else long)
        config.export.format = named or home_of(config.quantize.name)
        config.format = None  # what is wrong with it is said once
    elif isinstance(config, CompressConfig):
        config.student.checkpoint = one_of("checkpoint", config.checkpoint, "student.checkpoint", config.student.checkpoint)
    if isinstance(config, Deploys) and config.quantize.name != "none" and config.export.format == "none":
        config.export.format = home_of(config.quantize.name)  # numbers become small in a file


def one_of(short: str, given: str | None, long: str, also: str | None) -> str | None:
    if given is not None and also is not None and given != also:
        raise ConfigError(f"{short}={given} and {long}={also} differ; give one of them")
    return given if given is not None else also
