"""Run distillctl in processes of their own, forked from one that has the imports behind it: a start costs a tenth of a second."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from distillctl import state

PRELOADED = [
    "distillctl.cli",
    "distillctl.compose",
    "distillctl.commands.runs",
    "distillctl.commands.stream",
    "distillctl.runs.stream.results",
    "distillctl.runs.stream.check",
    "distillctl.outputs",
    "distillctl.compose.resume",
    "distillctl.runs.sweep",
    "hydra.core.hydra_config",
    "timm",
    "torchvision",
    "sklearn.datasets",
    "onnxruntime",
    "onnxscript",
    "torch.onnx._internal.exporter._core",
    "torch_pruning",
    "processes",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)
TIMES = ("images_per_s", "seconds")
# A busy machine may take as long as it likes over what takes a second alone: this only ends a test that hangs.
CEILING_S = 600.0
# a run of seconds: a few hundred digits, nets of some ten thousand parameters
SMALL = ["teacher=resnet8", "dataset.subset=300", "trainer.batch_size=32", "trainer.threads=1", "trainer.device=cpu"]


class Attempt:
    """One process; what it prints is in `output`. It leads a group of its own, as from a shell."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None, group: bool = True, ignoring: tuple[int, ...] = ()):
        self.log = Path(os.environ["DISTILLCTL_TEST_LOGS"]) / f"{time.monotonic_ns()}.log"
        self.log.touch()
        environment = {"DISTILLCTL_CACHE": str(self.log.parent / "cache"), **(environment or {})}  # not that of other tests
        self.process = CONTEXT.Process(target=be, args=(arguments, str(self.log), environment, group, ignoring), daemon=False)
        self.process.start()
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def problems(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error:")]

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def send_to_group(self, number: int) -> None:
        os.killpg(self.pid, number)

    def wait(self, timeout_s: float = CEILING_S) -> int:
        """Its exit code, negative for a signal."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still there after {timeout_s} s: {self.output}")
        return self.process.exitcode

    def until(self, happened, pause_s: float = 0.005) -> None:
        """Wait for something to be true, or for the process to end."""
        until(lambda: happened() or not self.process.is_alive(), lambda: self.output, pause_s)


def until(happened, otherwise=lambda: "", pause_s: float = 0.005) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + CEILING_S
    while not happened():
        assert time.monotonic() < deadline, f"not in {CEILING_S:.0f} s: {otherwise()}"
        time.sleep(pause_s)


def be(arguments: tuple[str, ...], log: str, environment: dict[str, str], group: bool, ignoring: tuple[int, ...]) -> None:
    """The child's side."""
    from distillctl import cli

    multiprocessing.set_start_method("fork", force=True)  # as from a shell: here it would be inherited
    if group:
        os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests themselves run under nohup
    for number in ignoring:
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(environment)
    sys.argv = ["distillctl", *arguments]
    cli.main()


def run(*arguments: str, **more) -> Attempt:
    """An attempt, to its end."""
    attempt = Attempt(*arguments, **more)
    attempt.code = attempt.wait()
    return attempt


def run_on_two_ranks(*arguments: str, environment: dict[str, str] | None = None) -> list[Attempt]:
    """Both ranks of a run, to their ends, as torchrun starts them: `trainer.devices=2` would import all of torch twice first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **(environment or {})}
    attempts = [Attempt(*arguments, environment={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    for attempt in attempts:
        attempt.code = attempt.wait()
    return attempts


def shell(*words: str, timeout_s: float = CEILING_S, **more) -> subprocess.CompletedProcess[str]:
    """A command as it is typed."""
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False, **more)


# a run in this process


def configured(command: str, folder: Path, *overrides: str):
    """The config of a command; one that goes on where a run is in the folder already."""
    if command == "train":  # in a working folder that tests share
        overrides = ("pretrain.reuse=false", *overrides)
    config = copy.deepcopy(composed(command, overrides))
    if (folder / "run.json").exists():
        config.resume = str(folder)
    return config


@cache
def composed(command: str, overrides: tuple[str, ...]):
    """A config by its words, once: to compose it takes as long as to train by it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from distillctl import compose

    GlobalHydra.instance().clear()
    compose.prepare()
    with initialize_config_dir(str(compose.conf_dir()), version_base="1.3"):
        return compose.typed(hydra_compose(command, list(overrides)))


def step(config, name: str = "pretrain"):
    """A step of the run's plan that builds on no other."""
    from distillctl.runs.plan import plan

    return plan(config).ready(plan(config).step(name), {})


class StopAfter:
    """Asks to stop at the n-th time that it is asked."""

    signal_number = signal.SIGTERM

    def __init__(self, asked: int):
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@contextlib.contextmanager
def copied_at(asked: int, folder: Path, copy: Path | None) -> Iterator[None]:
    """Trainings go on to their ends, and `copy` gets the run's folder as it would be if one had been stopped at the n-th time that it asks; None: no copy."""
    from distillctl.runs import train

    fit = train.fit

    def fit_and_copy(*arguments, save, asked_to_stop, **more):
        stop = StopAfter(asked)

        def asks() -> bool:
            if stop() and not copy.exists():
                save(arguments[0])
                shutil.copytree(folder, copy)
            return asked_to_stop()

        fit(*arguments, save=save, asked_to_stop=asks, **more)

    train.fit = fit if copy is None else fit_and_copy
    try:
        yield
    finally:
        train.fit = fit


# what a run left behind


def checkpoint(stage: Path) -> dict:
    found = state.newest(stage, lambda warning: None)
    assert found is not None, f"{stage} holds no checkpoint"
    return found[0]


def steps(stage: Path) -> int:
    """How far the newest checkpoint of a stage is; 0 where there is none."""
    with contextlib.suppress(Exception):
        return checkpoint(stage)["step"] if (stage / "last.pt").exists() or (stage / "previous.pt").exists() else 0
    return 0


def metrics(stage: Path) -> list[dict]:
    """The lines of metrics.jsonl, without times."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def differences(one, other, place: str = "") -> Iterator[str]:
    """The places where two states differ in any bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield place
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{place}/{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        for position, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}/{position}")
    elif type(one) is not type(other) or one != other:
        yield place


def same_stage(one: Path, other: Path) -> list[str]:
    """Where two stages differ: final state, metrics, weights that ship. The log's size alone may: times have more or fewer digits."""
    found = [place for place in differences(checkpoint(one), checkpoint(other)) if place != "/log_size"]
    found += [f"metrics.jsonl line {place}" for place in differences(metrics(one), metrics(other))]
    shipped = [file.name for file in one.glob("*.safetensors")]
    assert shipped
    return found + [name for name in shipped if (one / name).read_bytes() != (other / name).read_bytes()]
