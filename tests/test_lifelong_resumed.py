"""Tasks one after another, stopped in any way and resumed, or on several processes: the same run."""

import contextlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from commands import call
from processes import Attempt, StopAfter, checkpoint, configured, metrics, record, run, run_on_two_ranks, same_stage, steps
from safetensors.torch import load_file

from distillctl.runs.execute import execute
from distillctl.runs.lifelong import boundary
from distillctl.runs.session import session

KILLS = int(os.environ.get("DISTILLCTL_SOAK", "4"))
SEED = int(os.environ.get("DISTILLCTL_SOAK_SEED", "0"))
SMALL = (
    *(
        "student=resnet8",
        "dataset.subset=200",
        "lifelong.epochs=2",
        "lifelong.beside=[]",
        "memory.size=30",
        "tasks=[[3,1,4],[5,9],[2,6,0,7,8]]",
    ),
    *("trainer.batch_size=16", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "trainer.log_every=3"),
)
TASKS = ("task-1", "task-2", "task-3")

pytestmark = pytest.mark.usefixtures("logs")


def what_differs(one: Path, other: Path) -> list[str]:
    """Of two runs, in any bit but times."""
    found = [f"{name} {place}" for name in TASKS for place in same_stage(one / name, other / name)]
    for name in TASKS:
        ours, theirs = (dict(record(folder)["stages"][name]["tasks"]) for folder in (one, other))
        found += [f"{name} {key}" for key in ours.keys() | theirs.keys() if key != "seconds" and ours.get(key) != theirs.get(key)]
        ours, theirs = (json.loads((folder / name / "student.json").read_text()) for folder in (one, other))
        found += [f"{name} student.json {key}" for key in ("classes", "sha256") if ours.get(key) != theirs.get(key)]
    tables = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    matrices = [json.loads((folder / "tasks.json").read_text())["sequences"][0] for folder in (one, other)]
    found += [key for key in ("top1", "final") if tables[0][key] != tables[1][key]]
    return found + [key for key in matrices[0] if key != "seconds_a_task" and matrices[0][key] != matrices[1][key]]


# any moment


@pytest.mark.parametrize("strategy", ["derpp", "icarl", "lucir", "ewc"])
def test_a_sequence_that_is_killed_again_and_again_ends_as_if_it_never_was(strategy, tmp_path):
    whole, killed, given = tmp_path / "whole", tmp_path / "killed", [*SMALL, f"strategy={strategy}"]
    attempt = run("lifelong", *given, f"hydra.run.dir={whole}")
    assert attempt.code == 0, attempt.output
    total = sum(steps(whole / name) for name in TASKS)
    moments = sorted(random.Random(f"{SEED} {strategy}").choices(range(1, total - 2), k=KILLS))
    folders, kills = [killed / name for name in TASKS], 0
    while True:
        again = [f"resume={killed}"] if (killed / "run.json").exists() else [*given, f"hydra.run.dir={killed}"]
        attempt = Attempt("lifelong", *again, "trainer.save_every_s=0.001")
        if kills < KILLS:
            moment = max(moments[kills], sum(map(steps, folders)) + 1)
            attempt.until(lambda: sum(map(steps, folders)) >= moment)  # noqa: B023
            with contextlib.suppress(ProcessLookupError):  # it was faster
                attempt.send_to_group(signal.SIGKILL)
        code = attempt.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL, attempt.output
        kills += 1
    assert what_differs(whole, killed) == [], f"DISTILLCTL_SOAK_SEED={SEED}"
    assert record(killed)["status"] == "done"
    assert kills >= 1


# in this process, at moments that are chosen


def sequence(folder: Path, *words: str, asked: int = 10**9) -> bool:
    """Whether it came to its end; stopped after some steps by a `StopAfter`."""
    config = configured("lifelong", folder, *SMALL, *words)
    with session(config, folder, StopAfter(asked)) as running:
        try:
            execute(running)
        except Exception as error:
            if not str(error).startswith("interrupted"):
                raise
            return False
    return True


STRATEGIES = {
    "er": ["strategy=er", "memory.select=balanced", "trainer.accumulate=2"],
    "der": ["strategy=der", "lifelong.head=growing"],
    "derpp": ["strategy=derpp", "trainer.ema_decay=0.9"],
    "icarl": ["strategy=icarl"],
    "lucir": ["strategy=lucir", "trainer.accumulate=2"],
    "podnet": ["strategy=podnet", "strategy.proxies=3", "lifelong.head=growing", "trainer.ema_decay=0.9"],
    "ewc": ["strategy=ewc"],
    "lwf": ["strategy=lwf"],
    "lwf_mc": ["strategy=lwf_mc", "lifelong.head=growing"],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sequence_that_is_stopped_within_each_task_ends_as_if_it_never_was(name, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert sequence(whole, *STRATEGIES[name])
    lengths = [steps(whole / task) for task in TASKS]
    stops = 0
    while not sequence(stopped, *STRATEGIES[name], asked=min(lengths) - 2):
        stops += 1
        assert stops < 20
    assert stops >= 3
    assert what_differs(whole, stopped) == []


@pytest.mark.parametrize("where", ["hand_over", "measured"])
@pytest.mark.parametrize("name", ["derpp", "icarl", "podnet", "ewc"])
def test_a_sequence_that_breaks_off_at_the_end_of_a_task_does_that_end_again(name, where, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert sequence(whole, *STRATEGIES[name])
    calls, before = [], getattr(boundary, where)

    def breaks_off(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return before(*arguments)

    monkeypatch.setattr(boundary, where, breaks_off)
    with pytest.raises(OSError, match="the disk is gone"):
        sequence(broken, *STRATEGIES[name])
    assert list(record(broken)["stages"]) == ["task-1"]
    assert sequence(broken, *STRATEGIES[name])
    assert what_differs(whole, broken) == []


def test_a_memory_that_is_forgotten_is_missed(tmp_path, monkeypatch):
    """Which proves that the comparison sees it."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert sequence(whole, *STRATEGIES["derpp"])
    assert not sequence(stopped, *STRATEGIES["derpp"], asked=4)
    from distillctl.strategies.memory import Memory

    monkeypatch.setattr(Memory, "set_extra_state", lambda self, state: None)
    assert sequence(stopped, *STRATEGIES["derpp"])
    assert what_differs(whole, stopped) != []


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    ended = call("lifelong", *SMALL, "hydra.run.dir=run", cwd=place)
    assert ended.code == 0, ended.err
    return place / "run"


@pytest.mark.parametrize(
    ("change", "words"),
    [("gone", "what it carries over is gone; start a new run"), ("damaged", "not what a task carries over")],
)
def test_what_a_task_carries_over_cannot_be_made_up(change, words, finished, tmp_path, distillctl):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    kept = record(folder)
    kept |= {"status": "interrupted", "exit_code": 130}
    for name in ("task-2", "task-3"):
        del kept["stages"][name]
        shutil.rmtree(folder / name)
    (folder / "run.json").write_text(json.dumps(kept))
    file = folder / "task-1" / "carried.safetensors"
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:100])
    ended = distillctl("lifelong", f"resume={folder}", cwd=tmp_path)
    assert ended.code == 4, ended.err
    assert len(ended.err.splitlines()) == 1
    assert words in ended.err


def test_a_resumed_sequence_may_not_become_another(finished, tmp_path, distillctl):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for word in ("memory.size=31", "strategy=er", "lifelong.order_seed=3", "lifelong.head=growing", "strategy.alpha=0.3"):
        ended = distillctl("lifelong", f"resume={folder}", word, cwd=tmp_path)
        assert ended.code == 2, (word, ended.out)
        assert word.partition("=")[0] in ended.err


# several processes


@pytest.mark.parametrize("name", ["derpp", "icarl", "lucir", "podnet"])
def test_two_ranks_take_the_steps_of_one_and_keep_the_same_samples(name, tmp_path):
    smooth = ["optimizer.lr=0.0005", "trainer.log_every=1", f"strategy={name}"]
    attempts = [run("lifelong", *SMALL, *smooth, f"hydra.run.dir={tmp_path / 'one'}")]
    attempts += run_on_two_ranks("lifelong", *SMALL, *smooth, f"hydra.run.dir={tmp_path / 'two'}")
    assert [attempt.code for attempt in attempts] == [0, 0, 0], [attempt.output for attempt in attempts]
    for task in TASKS:
        one, two = ([line for line in metrics(tmp_path / run / task) if line["kind"] == "step"] for run in ("one", "two"))
        assert len(one) == len(two) > 4
        for ours, theirs in zip(one, two, strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3), (task, ours, theirs)
        one, two = (checkpoint(tmp_path / run / task)["method"] for run in ("one", "two"))
        assert one.keys() == two.keys()
        assert any(key.startswith("memory.") for key in one)
        for key, value in one.items():
            if not isinstance(value, torch.Tensor):
                assert two[key] == value, key
            elif name == "derpp" and key in ("memory.inputs", "memory.targets", "memory.index", "memory.widths"):
                assert torch.equal(two[key], value), key
            elif not key.startswith("memory.") or name == "derpp":
                torch.testing.assert_close(two[key], value, rtol=5e-3, atol=5e-4, msg=f"{task} {key}")
    kept = [load_file(tmp_path / run / "task-3" / "carried.safetensors") for run in ("one", "two")]
    assert torch.equal(kept[0]["memory.targets"], kept[1]["memory.targets"])


def test_two_devices_of_one_command_are_a_run(tmp_path):
    attempt = run("lifelong", *SMALL, "strategy=er", "lifelong.epochs=1", "trainer.devices=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert attempt.code == 0, attempt.output
    assert record(tmp_path / "run")["status"] == "done"
    assert list(record(tmp_path / "run")["stages"]) == list(TASKS)
