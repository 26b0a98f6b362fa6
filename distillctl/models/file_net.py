"""A file that another runtime runs as a net, whoever exported it: what is asked of it before it answers anything."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from distillctl.config import ANSWER_SUFFIXES, ANSWERS, FILE, ModelConfig
from distillctl.errors import CheckpointError, ConfigError, UserError
from distillctl.formats import by_file, form_of
from distillctl.formats.engine import Engine, are_probabilities, engine
from distillctl.formats.format import IMAGE
from distillctl.inputs.contract import Contract
from distillctl.models.net import Net
from distillctl.models.published import triple
from distillctl.models.record import Record
from distillctl.models.seen import KIND
from distillctl.models.shipping import checksum

WEIGHTS = "give the .safetensors that it was made from"
SOURCE = "file"


def named(config: ModelConfig, key: str) -> tuple[str, str | None]:
    """The key that names a model's weights or its file, and what it says."""
    return (f"{key}.file", config.file) if config.file is not None else (f"{key}.checkpoint", config.checkpoint)


def is_meant(config: ModelConfig) -> bool:
    """Whether a config says that a file is a net by itself, which needs no record."""
    return config.name == FILE or config.file is not None


def is_run(file: Path | None) -> bool:
    """Whether a file is of a kind that another runtime runs."""
    return file is not None and by_file(file) is not None


def check_known(config: ModelConfig, file: Path, key: str) -> None:
    """Raises CheckpointError where a file that is to be a net by itself is of no kind that is run here, or not there."""
    setting, given = named(config, key)
    if file.suffix.lower() in ANSWER_SUFFIXES:
        raise CheckpointError(f"{setting}={given}: no net; teacher={ANSWERS} reads answers")
    if not is_run(file):
        raise CheckpointError(
            f"{setting}={given}: {key}={FILE} runs .onnx files; of weights name the net: {key}=<model> {key}.checkpoint=..."
        )
    if not file.is_file():
        raise CheckpointError(f"{setting}={given}: {'no file, but a folder or a device' if file.exists() else 'no such file'}")


def file_net(config: ModelConfig, file: Path, record: Record | None, inputs: Contract, key: str) -> Net:
    """The file as a net for these inputs, tried on a few images. Raises ConfigError and CheckpointError that begin with its key."""
    setting, given = named(config, key)
    where = f"{setting}={given}"
    check_asked(config, where, key)
    if inputs.kind != KIND:
        raise CheckpointError(f"{where} takes images, and the data set has {inputs.noun}; give a {key} of these")
    try:
        net = opened(file, record)
        size = size_of(net, config, record, where, key)
        if net.runner.takes.kind == IMAGE and (config.mean or config.std):
            raise ConfigError(f"{key}.mean, {key}.std: {file.name} takes images as they are, and normalises them itself; leave them out")
        told = record.preprocessing if record is not None else {}
        mean, std = (triple(getattr(config, name) or told.get(name)) for name in ("mean", "std"))
        architecture = record.architecture if record is not None else None
        name, stem = (architecture.name, architecture.stem) if architecture else (FILE, "large")
        found = Net(net, architecture.source if architecture else SOURCE, name, stem, (), {}, mean, std, size or inputs.size)
        tried(found, net, record, inputs, where)
    except UserError as error:
        said = str(error)
        raise type(error)(said if said.startswith((where, f"{key}.")) else f"{where}: {said.removeprefix(f'{file}: ')}") from None
    return found


def opened(file: Path, record: Record | None) -> Engine:
    if record is not None and record.exported is not None:
        return engine(file, record.sha256, record.exported.parameters, record.exported.macs, threads=None)
    seen = file.stat()
    state = file, seen.st_mtime_ns, seen.st_size
    try:
        return engine(file, checksum(*state), parameters_of(*state), threads=None)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})") from None


@lru_cache(maxsize=16)
def parameters_of(file: Path, modified_ns: int, size: int) -> int:
    return form_of(file).parameters(file)


def check_asked(config: ModelConfig, where: str, key: str) -> None:
    """What is asked to be changed of it cannot be. Raises ConfigError."""
    if config.new_head:
        raise ConfigError(f"{where}: an exported file answers for the classes that it has; leave {key}.new_head out, or {WEIGHTS}")
    if config.args:
        raise ConfigError(f"{where}: an exported file is built already; leave {key}.args out, or {WEIGHTS}")


def size_of(net: Engine, config: ModelConfig, record: Record | None, where: str, key: str) -> int | None:
    """The side in px of what it is given; None where it takes any, and nobody says which."""
    fixed = net.runner.takes.size
    if fixed is not None and config.image_size not in (None, fixed):
        raise ConfigError(f"{key}.image_size={config.image_size}: {where} takes {fixed} px alone; leave it out")
    return fixed or config.image_size or (record.architecture.image_size if record is not None else None)


def tried(net: Net, module: Engine, record: Record | None, inputs: Contract, where: str) -> None:
    """Look at what it answers to four images, as those of the data set are given to it. Raises CheckpointError."""
    adapted = inputs.adapt(net)
    assert inputs.size is not None
    with torch.no_grad():
        logits = adapted.eval()(images_to_try(inputs.size)).logits
    if logits.ndim != 2 or len(logits) != 4:
        raise CheckpointError(f"it answers 4 images with {list(logits.shape)}, and logits are [4, K]")
    if logits.shape[1] != len(inputs.classes):
        raise CheckpointError(
            f"it answers with {logits.shape[1]} numbers an image, and the data set has {len(inputs.classes)} classes; give one of these classes"
        )
    if not torch.isfinite(logits).all():
        raise CheckpointError("its answers to plain images are no finite numbers")
    module.probabilities = record is None and are_probabilities(logits)


def images_to_try(size: int) -> Tensor:
    """Black, white, a ramp and a pattern: uint8 [4, 3, size, size]."""
    line = torch.arange(size * size)
    ramp, pattern = (line * 255) // max(size * size - 1, 1), (line * 7919) % 256
    rows = torch.stack([torch.zeros_like(line), torch.full_like(line, 255), ramp, pattern])
    return rows.to(torch.uint8).view(4, 1, size, size).expand(4, 3, size, size).contiguous()


def remark(net: Net, config: ModelConfig, key: str) -> str:
    """What people should know of a file that teaches, in a line; empty where there is nothing."""
    if not isinstance(net.module, Engine) or not net.module.probabilities:
        return ""
    setting, given = named(config, key)
    return f"{setting}={given}: it answers with probabilities; their logarithms are taken as logits"
