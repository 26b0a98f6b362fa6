"""The net that a record describes, built again: by a class that is trusted, and of no more weights than its file holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from distillctl import inputs as kinds
from distillctl.build import build, find_class
from distillctl.config import ModelConfig
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.inputs.contract import Contract
from distillctl.models.edits import apply_edits, change_of
from distillctl.models.locate import locate
from distillctl.models.net import Net, rebuild
from distillctl.models.pruned import PRUNED
from distillctl.models.published import triple
from distillctl.models.record import Record

SPARE = 2**20  # weights that a net may make besides those that its file holds
UNCUT = 2**28  # and one that was pruned, which is built whole before it is cut: a gigabyte


def from_record(record: Record, config: ModelConfig, inputs: Contract, key: str) -> Net:
    """The architecture as it was, with as many classes as are asked for now."""
    architecture = record.architecture
    source, name, edits = architecture.source, config._target_ or architecture.name, architecture.edits
    args = {**architecture.args, **config.args}
    where = f"{key}.checkpoint={config.checkpoint}"
    try:
        spare = UNCUT if any(isinstance(change_of(edit.became), PRUNED) for edit in edits) else SPARE
        with parameters_within(weights_in(locate(str(config.checkpoint), key, f"{key}.checkpoint")), spare):
            if source == "own":
                module = own_of_record(name, args, config, len(inputs.classes), key)
                apply_edits(module, edits)
            else:
                module = rebuild(source, architecture.name, len(inputs.classes), architecture.args, edits, key, added=config.args)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    theirs = kinds.from_record(record)
    if theirs.kind != inputs.kind:
        raise CheckpointError(f"{where} takes {theirs.noun}, and the data set has {inputs.noun}; give a {key} of these")
    size = config.image_size or architecture.image_size or inputs.size
    told = record.preprocessing
    mean, std = (triple(getattr(config, name) or told.get(name)) for name in ("mean", "std"))
    file = locate(str(config.checkpoint), key, f"{key}.checkpoint")
    return Net(module, source, name, architecture.stem, edits, args, mean, std, size, inputs.reader_of_record(record, config, file, key))


def weights_in(file: Path) -> int:
    """How many a file can hold at most."""
    try:
        return file.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def parameters_within(count: int, spare: int = SPARE) -> Iterator[None]:
    """Refuse to make a net of many more than so: a record may ask for more layers, or wider ones, than any machine has room for.

    Nets make some that they drop again, so four times as many may be made. Raises CheckpointError, within the builder of the net.
    """
    made, most = 0, 4 * count + spare

    def weigh(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += parameter.numel()
        if made > most:
            raise CheckpointError("it describes a net of more weights than the file holds")

    hook = register_module_parameter_registration_hook(weigh)
    try:
        yield
    finally:
        hook.remove()


def own_of_record(name: str, args: Mapping[str, Any], config: ModelConfig, classes: int, key: str) -> nn.Module:
    """A class of the user's own with what its record gives it. Raises CheckpointError where it is not trusted, or cannot be built."""
    node = {**args, "_target_": name}
    try:
        find_class(node, nn.Module, key)
    except ConfigError as error:
        if config._target_:
            raise
        raise CheckpointError(f"its record names a class ({error})") from None
    try:
        return build(node, nn.Module, key, num_classes=classes)
    except Exception as error:  # a record may give it anything, and the class may object in any way
        if config.args:
            raise
        raise CheckpointError(f"its record describes no {name} that can be built ({first_line(error)[:200]})") from None
