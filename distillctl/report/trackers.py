"""Metrics for TensorBoard and Weights & Biases. A tracker that fails costs curves, never the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillctl import extras
from distillctl.config import TrackerConfig
from distillctl.errors import MachineError


class Tracker:
    """Tracks nothing; what a run without one has."""

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard(Tracker):
    """Event files in <run folder>/tensorboard."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class WandB(Tracker):
    """One run of the project named in the config. No code, no diff, no prompt for a login."""

    def __init__(self, folder: Path, project: str):
        os.environ |= {"WANDB_DISABLE_CODE": "true", "WANDB_DISABLE_GIT": "true", "WANDB_SILENT": "true"}
        import wandb

        mode = None if os.environ.get("WANDB_API_KEY") else "offline"
        self.run = wandb.init(project=project, dir=str(folder), name=folder.name, id=folder.name, resume="allow", mode=mode)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step})

    def close(self) -> None:
        self.run.finish()


class FailSafe(Tracker):
    """Passes on to a tracker until that fails; then one warning, and silence."""

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]):
        self.tracker, self.warn = tracker, warn

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.attempt(lambda: self.tracker.log(stage, step, values))

    def close(self) -> None:
        self.attempt(self.tracker.close)

    def attempt(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # whatever a service does wrong, the training matters more
            self.warn(f"the tracker failed ({type(error).__name__}: {error}); going on without it")
            self.tracker = Tracker()


def make_tracker(config: TrackerConfig, folder: Path, warn: Callable[[str], None]) -> Tracker:
    """Raises MachineError where the tracker's package is not installed."""
    if config.name == "none":
        return Tracker()
    try:
        return FailSafe(TensorBoard(folder) if config.name == "tensorboard" else WandB(folder, config.project), warn)
    except ImportError:
        raise MachineError(f"tracker={config.name}: not installed; {extras.pip_line(config.name)}") from None
    except Exception as error:  # no login, no network
        warn(f"tracker={config.name} could not start ({type(error).__name__}: {error}); going on without it")
        return Tracker()
