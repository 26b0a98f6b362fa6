"""Jobs that a scheduler starts again by the same command: they go on where they were, whatever folder they were given."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Attempt, record, steps

from distillctl import outputs, requeue

QUICK = ("teacher=resnet8", "pretrain.epochs=1", "dataset.subset=200", "trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32")
LONG = (*QUICK, "pretrain.epochs=400", "trainer.save_every_s=0.001")
FIRST = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0"}
AGAIN = FIRST | {"SLURM_RESTART_COUNT": "1"}


@pytest.fixture
def stopping(monkeypatch):
    """Training that is stopped, the first time that it begins."""
    from distillctl.runs import execute

    whole, times = execute.train_steps, []

    def once(running, *arguments):
        times.append(running)
        if len(times) == 1:
            raise running.interrupted()
        return whole(running, *arguments)

    monkeypatch.setattr(execute, "train_steps", once)


@pytest.mark.parametrize("words", [[], ["hydra.run.dir=run"], ["hydra.run.dir=${tracker.name}/run"]])
@pytest.mark.usefixtures("stopping")
def test_a_job_that_is_requeued_goes_on(words: list[str], distillctl, tmp_path: Path):
    """Without a folder, with one, with one that is told by the config alone."""
    command = ["pretrain", *QUICK, *words]
    assert distillctl(*command, cwd=tmp_path, env=FIRST).code == 143
    [before] = tmp_path.rglob("run.json")
    again = distillctl(*command, cwd=tmp_path, env=AGAIN)
    assert (again.code, again.err) == (0, "")
    assert list(tmp_path.rglob("run.json")) == [before]
    assert outputs.read_run(before.parent)["status"] == "done"
    assert (before.parent / ".hydra/attempt-2").is_dir()
    third = distillctl(*command, cwd=tmp_path, env=AGAIN | {"SLURM_RESTART_COUNT": "2"})
    assert (third.code, third.err) == (0, "")
    assert "nothing to do" in third.out
    assert "top-1 %" in third.out


@pytest.mark.parametrize("other", [{"SLURM_JOB_ID": "8"}, {"SLURM_RESTART_COUNT": "0"}, {"SLURM_JOB_ID": ""}])
@pytest.mark.usefixtures("stopping")
def test_another_job_does_not_go_on(other: dict[str, str], distillctl, tmp_path: Path):
    command = ["pretrain", *QUICK, "hydra.run.dir=run"]
    distillctl(*command, cwd=tmp_path, env=FIRST)
    finished = distillctl(*command, cwd=tmp_path, env=AGAIN | other)
    assert finished.code == 2
    assert "this folder holds a run already" in finished.err


@pytest.mark.usefixtures("stopping")
def test_the_runs_of_one_job_are_told_apart_by_their_words(distillctl, tmp_path: Path):
    distillctl("pretrain", *QUICK, "seed=1", cwd=tmp_path, env=FIRST)
    assert distillctl("pretrain", *QUICK, "seed=2", cwd=tmp_path, env=AGAIN).code == 0
    assert len(list(tmp_path.rglob("run.json"))) == 2


def test_a_sweep_that_is_requeued_goes_on(distillctl, tmp_path: Path):
    command = ["pretrain", *QUICK, "-m", "dataset.subset=99999,200"]
    assert distillctl(*command, cwd=tmp_path, env=FIRST).code == 3
    again = distillctl(*command, cwd=tmp_path, env=AGAIN)
    assert again.code == 3
    assert "1 done before" in again.out
    assert len(list(tmp_path.rglob("jobs.json"))) == 1


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_preemption_saves_however_often_it_is_told(number: int, tmp_path: Path):
    attempt = Attempt("pretrain", *LONG, f"hydra.run.dir={tmp_path / 'run'}", environment=FIRST)
    attempt.until(lambda: steps(tmp_path / "run/pretrain") > 2)
    os.kill(attempt.pid, signal.SIGSTOP)  # so that both are there before it can take a step
    for _ in range(2):
        attempt.send(number)
    os.kill(attempt.pid, signal.SIGCONT)
    assert attempt.wait() == 143, attempt.output
    assert record(tmp_path / "run")["status"] == "interrupted"
    assert steps(tmp_path / "run/pretrain") > 2


DYING = """
import os, sys
from distillctl import cli
from distillctl.runs import execute
whole = execute.train_steps
def dying(running, *arguments):
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os._exit(9)
    return whole(running, *arguments)
execute.train_steps = dying
cli.main()
"""


def test_an_elastic_restart_goes_on(tmp_path: Path):
    (tmp_path / "dying.py").write_text(DYING)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--max-restarts=1", "--master-port=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*torchrun, "dying.py", "pretrain", *QUICK], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    [made] = tmp_path.rglob("run.json")
    assert json.loads(made.read_text())["status"] == "done"


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "RANK", "MASTER_ADDR", "not a number", "too high"])
def test_half_of_what_torchrun_says_is_one_line(missing: str, distillctl, tmp_path: Path):
    said = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    changed = {"not a number": {"RANK": "first"}, "too high": {"RANK": "2"}}
    environment = {name: value for name, value in said.items() if name != missing} | changed.get(missing, {})
    finished = distillctl("pretrain", *QUICK, cwd=tmp_path, env=environment)
    assert finished.code == 5
    assert len(finished.err.splitlines()) == 1
    assert ("RANK" if missing in changed else missing) in finished.err


@pytest.mark.parametrize(
    ("said", "again"), [("", False), ("0", False), ("00", False), ("2", True), ("x", False), ("-1", False), ("²", False)]
)
def test_what_counts_starts_is_a_number(said: str, again: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", said)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert requeue.is_again() is again
