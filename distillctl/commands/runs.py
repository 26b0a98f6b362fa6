"""The commands that train: `distillctl train`, `pretrain`, `distill`, `finetune`. Each is a plan of steps, which its config says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from distillctl import ranks
from distillctl.commands.given import named_as_given
from distillctl.config import CompressConfig, ExportConfig, RunConfig
from distillctl.interruption import StopRequest
from distillctl.invocation import Invocation
from distillctl.runs.check import check_settings
from distillctl.runs.execute import execute
from distillctl.runs.preview import preview
from distillctl.runs.session import session


def run(config: RunConfig, folder: Path | None, asked: Invocation | None = None) -> ranks.Figures | None:
    """What a sweeper is told: the figures of `objective`, of the validation split. asked: what is written down of it in the folder."""
    with as_typed(config):
        check_settings(config)
        return ranks.launch(partial(train_rank, asked=asked), config, folder)


def as_typed(config: RunConfig) -> AbstractContextManager[None]:
    """Messages name the keys that were given."""
    if isinstance(config, ExportConfig):
        return named_as_given()
    return named_as_given("student.checkpoint") if isinstance(config, CompressConfig) and config.checkpoint else nullcontext()


def show_plan(config: RunConfig) -> None:
    """`--plan`: the steps, what is there already, and what the others will take. By one process; nothing is trained or written."""
    check_settings(config)
    with StopRequest() as stop, session(config, None, stop) as running:
        preview(running)


def train_rank(config: RunConfig, folder: Path | None, asked: Invocation | None = None) -> ranks.Figures:
    """One process's part."""
    with StopRequest() as stop, session(config, folder, stop, asked) as running:
        return execute(running)
