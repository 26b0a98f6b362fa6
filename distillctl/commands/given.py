"""What `checkpoint=` of a command says: which model is meant, and how its errors call it. No torch here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from distillctl.config import ModelConfig
from distillctl.errors import CheckpointError, ConfigError
from distillctl.models.locate import locate
from distillctl.models.record import Record
from distillctl.models.shipping import read_record


@contextlib.contextmanager
def named_as_given(long: str = "model.checkpoint") -> Iterator[None]:
    """Messages about a long key speak of `checkpoint`, the short one that people use."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(*(problem.replace(long, "checkpoint") for problem in error.problems)) from None
    except ConfigError as error:  # which may speak of both
        short = ("checkpoint" + problem[len(long) :] if problem.startswith(long) else problem for problem in error.problems)
        raise type(error)(*short) from None


def with_checkpoint(model: ModelConfig, checkpoint: str) -> ModelConfig:
    """`checkpoint=` is the short way to say `model.checkpoint=`."""
    if model.checkpoint not in (None, checkpoint):
        raise ConfigError(f"checkpoint={checkpoint} and model.checkpoint={model.checkpoint} differ; give one of them")
    model.checkpoint = checkpoint
    return model


def recorded(checkpoint: str, lacking: str) -> tuple[Path, Record]:
    """The file that a path names, and its record. Raises CheckpointError; `lacking` ends what is said where there is no record."""
    file = locate(checkpoint, "model", "checkpoint")
    record = read_record(file, "checkpoint")
    if record is None:
        from distillctl.formats import by_file
        from distillctl.models.weights import read_weights

        if by_file(file) is None or not file.exists():
            read_weights(file, "checkpoint")  # what is wrong with the file itself comes before what it lacks
        raise CheckpointError(f"checkpoint={checkpoint}: no record beside it {lacking}")
    return file, record
