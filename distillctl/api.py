"""Runs from Python, as the command line does them: the functions that `import distillctl` hands on."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from distillctl import compose, outputs, runtime
from distillctl.commands import COMMANDS
from distillctl.commands.given import named_as_given, recorded
from distillctl.compose import resume as resuming
from distillctl.config import SCHEMAS, ModelConfig, StreamConfig
from distillctl.errors import INTERNAL_ERROR, CheckpointError, ConfigError, MachineError, UserError, did_you_mean, first_line
from distillctl.files import parse_json
from distillctl.inputs import from_record
from distillctl.models.adapter import Adapter
from distillctl.models.obtain import obtain
from distillctl.paths import as_path
from distillctl.rank import Rank
from distillctl.runs.check import check_settings
from distillctl.runs.plan import plan as plan_of
from distillctl.runs.steps import Plan
from distillctl.runs.stream.check import check_stream
from distillctl.runs.stream.plan import StreamPlan
from distillctl.runs.stream.plan import plan as plan_of_stream


@dataclass(frozen=True)
class Experiment:
    """What `configure` gives.

    command: of those that train. overrides: as they were given. config: every key with its value, read-only; `experiment.config.trainer.batch_size`.
    again: what a command line needs to go on with it, besides the folder.
    """

    command: str
    overrides: tuple[str, ...]
    config: DictConfig
    again: tuple[str, ...] = ()


def configure(command: str, *overrides: str, config_dir: str | Path | None = None) -> Experiment:
    """Compose and check a config, as `distillctl COMMAND OVERRIDES` does.

    command: one that trains, as train, distill, lifelong or stream. overrides: words of the command line, as in "student=resnet8". config_dir: a folder
    of config groups of one's own, as `--config-dir`. Raises ConfigError with all problems, one a line.
    """
    known = [name for name, entry in COMMANDS.items() if entry.is_run]
    if command not in known:
        raise ConfigError(f"{command}: no command that trains; {did_you_mean(command, known)}")
    for word in overrides:
        if word.startswith("-"):
            raise ConfigError(f"{word}: a flag of the command line; what is given here is key=value")
        if word.lstrip("+~").startswith("hydra"):
            raise ConfigError(f"{word}: of the command line alone; the folder of a run is an argument of run()")
        if word.startswith("resume="):
            raise ConfigError(f"{word}: go on with a run by distillctl.resume({word.removeprefix('resume=')!r})")
    return composed(command, compose.with_data(command, list(overrides), [config_dir] if config_dir else []), config_dir)


def plan(experiment: Experiment) -> Plan | StreamPlan:
    """What a run will do: `steps` in order, which `rows` are measured, which of them it is about (`final`). Nothing is built or read.

    Of a stream, which has no steps, a `StreamPlan`: where samples come from, who teaches, what is kept, what lets a model out.
    experiment: of `configure`. Raises ConfigError where settings, loss or method cannot be.
    """
    with explained(experiment):
        config = compose.typed(experiment.config)
        if isinstance(config, StreamConfig):
            check_stream(config)
            return plan_of_stream(config)
        check_settings(config)
        return plan_of(config)


def run(experiment: Experiment, folder: str | Path) -> dict[str, Any]:
    """Train what `plan` says in this process, measure it on the test split, and leave in `folder` what the command leaves.

    folder: a new one, or an empty one. Returns what summary.json holds: `top1` of the model that the run is about (`final`),
    `gain_over_alone`, and `rows`, a dict for each model; of a stream `stream` besides. Raises the UserError that the command would print: DataError, CheckpointError,
    MachineError, Diverged, and Interrupted after a signal, when everything is saved.
    """
    place = as_path(folder).absolute()
    if (place / outputs.RUN_FILE).exists():
        raise ConfigError(f"{place}: this folder holds a run already; choose another, or go on by distillctl.resume({str(folder)!r})")
    return execute(experiment, place)


def resume(folder: str | Path, *overrides: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Go on with a run that was stopped, of this interface or of the command line, or return the summary of one that is done.

    overrides: what may change between two attempts, as in "trainer.devices=2". Returns and raises what `run` does.
    """
    place = as_path(folder).absolute()
    record = outputs.read_run(place)
    command = str(record.get("command"))
    if command not in SCHEMAS:
        raise CheckpointError(f"{place}: its record names no command that trains ({command[:40]!r})")
    if record.get("status") == "done" and resuming.changes_nothing(command, overrides):
        return summary(place)
    words = resuming.overrides(command, [], [*overrides, f"resume={compose.quoted(str(place))}"])
    experiment = composed(command, [word for word in words if not word.startswith("hydra.")], config_dir, overrides)
    resuming.check_unchanged(place, experiment.config)
    return execute(experiment, place)


def load(path: str | Path) -> Adapter:
    """A model that a run has shipped, in eval mode on the CPU.

    path: a run's folder (its final student), a stage's folder (`runs/first/pretrain`: the teacher), or a .safetensors file with its
    record. The model takes samples as data sets store them, images as uint8 or as floats in [0, 1], [B, 3, H, W], and answers with an
    `Output`, whose `logits` are [B, K]; `classes` are the K names. Raises CheckpointError.
    """
    with named_as_given(), torch.random.fork_rng(devices=[]):
        file, record = recorded(str(path), "says what it is; keep its .json")
        model = obtain(ModelConfig(name="recorded", checkpoint=str(file)), from_record(record), "model", seed=0).classifier.eval()
    model.classes = tuple(record.classes)
    return model


def composed(command: str, words: list[str], config_dir: str | Path | None, changed: Sequence[str] = ()) -> Experiment:
    """Hydra is left as it was found: we may be called from within an application of its own."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"config_dir={config_dir}: no such folder")
    extra = compose.search_words([config_dir] if config_dir is not None else [])
    compose.prepare()
    words = compose.written(command, words)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
            config = hydra.compose(command, [*words, *extra])
            compose.typed(config)
    except Exception as error:
        problem = error if isinstance(error, UserError) else compose.explain(error, command, words)
        if problem is None:
            raise
        raise problem from None
    finally:
        GlobalHydra.instance().hydra = before
    OmegaConf.set_readonly(config, True)
    own = ("--config-dir", str(Path(config_dir).absolute())) if config_dir is not None else ()
    return Experiment(command, tuple(words), config, (*own, *changed))


def execute(experiment: Experiment, place: Path) -> dict[str, Any]:
    if threading.current_thread() is not threading.main_thread():
        raise MachineError("a run handles signals, which the main thread of a process alone can; call it there")
    if Rank.is_given():
        raise MachineError("under torchrun use the command line; from Python trainer.devices=N starts the processes")
    asked = compose.invocation(experiment.command, experiment.config, experiment.overrides, experiment.again)
    with explained(experiment, place, asked.mark):
        config = compose.typed(experiment.config)
        if isinstance(config, StreamConfig) and config.action != "run":
            raise ConfigError(f"action={config.action} is no run; it is for the command line: distillctl stream action={config.action}")
        importlib.import_module(f"distillctl.commands.{COMMANDS[experiment.command].home or experiment.command}").run(config, place, asked)
    return summary(place)


@contextlib.contextmanager
def explained(experiment: Experiment, folder: Path | None = None, start: str | None = None) -> Iterator[None]:
    """What a user can cause becomes a UserError; why a run ended is written into its run.json, where `start` marks it as ours."""
    try:
        yield
    except Exception as error:
        problem = error if isinstance(error, UserError) else compose.explain(error, experiment.command, list(experiment.overrides))
        problem = problem or runtime.explain(error)
        with contextlib.suppress(UserError):
            if folder is not None:
                outputs.record_failure(folder, first_line(problem or error), problem.exit_code if problem else INTERNAL_ERROR, start)
        if problem is None or problem is error:
            raise
        raise problem from error


def summary(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parse_json(resuming.summary_of(folder))
    except ValueError:
        raise CheckpointError(f"{folder / 'summary.json'}: no JSON that can be read") from None
    return found
