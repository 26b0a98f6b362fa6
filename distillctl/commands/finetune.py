"""`distillctl finetune`: a student that is ready, by labels."""

from pathlib import Path

from distillctl import ranks
from distillctl.config import FinetuneConfig
from distillctl.interruption import StopRequest
from distillctl.runs.check import check_settings
from distillctl.runs.execute import run_finetune
from distillctl.runs.session import session


def run(config: FinetuneConfig, folder: Path | None) -> float | None:
    """Top-1 of the final model on the test split."""
    check_settings(config)
    return ranks.launch(work, config, folder)


def work(config: FinetuneConfig, folder: Path | None) -> float:
    with StopRequest() as stop, session(config, folder, stop) as running:
        return run_finetune(running)
