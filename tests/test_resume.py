"""A run that was stopped in any way and resumed is, bit for bit, the run that was not."""

import contextlib
import copy
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import (
    CEILING_S,
    SMALL,
    Attempt,
    StopAfter,
    checkpoint,
    configured,
    differences,
    metrics,
    record,
    run,
    same_stage,
    step,
    steps,
)

from distillctl import state
from distillctl.errors import CheckpointError
from distillctl.runs import choose
from distillctl.runs.session import session
from distillctl.runs.train import Stage, train
from distillctl.runtime import Runtime
from distillctl.training import PLAIN_STATE, Training

KILLS = int(os.environ.get("DISTILLCTL_SOAK", "6"))
SAVING_ALL_THE_TIME = "trainer.save_every_s=0.001"
STAGES = ("pretrain", "distill", "finetune", "alone")
EVERYTHING = [
    *SMALL,
    "student=wrn_16_1",
    "+student.args.drop_rate=0.3",
    f"pretrain.epochs={max(2, KILLS // 5)}",
    f"distill.epochs={max(2, KILLS // 5)}",
    "pretrain.reuse=false",
    "finetune.epochs=1",
    "trainer.accumulate=2",
    "trainer.ema_decay=0.95",
    "trainer.precision=bf16",
    "trainer.clip_norm=5",
    "trainer.log_every=3",
    "dataset.augment.mixup=0.4",
    "dataset.augment.cutmix=1.0",
]
# one stage of twenty steps, which signals can hit
PRETRAIN = ["pretrain", *SMALL, "pretrain.epochs=2", "trainer.log_every=3", "trainer.ema_decay=0.9"]
LONG = [*PRETRAIN, "pretrain.epochs=400"]


pytestmark = pytest.mark.usefixtures("logs")


# any moment


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path, capsys):
    seed = int(os.environ.get("DISTILLCTL_SOAK_SEED", "0"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert run("train", *EVERYTHING, f"hydra.run.dir={whole}").code == 0
    length = time.monotonic() - began
    draw, kills, in_save, attempts, places = random.Random(seed), 0, 0, 0, []
    began = time.monotonic()
    while True:
        attempts += 1
        again = [f"resume={killed}"] if (killed / "run.json").exists() else [*EVERYTHING, f"hydra.run.dir={killed}"]
        attempt = Attempt("train", *again, SAVING_ALL_THE_TIME)
        if kills < KILLS:
            folders = [killed / name for name in STAGES]
            began_with = sum(map(steps, folders))
            attempt.until(lambda: sum(map(steps, folders)) > began_with)  # noqa: B023
            time.sleep(draw.uniform(0, length / KILLS / 2))  # saving at every step makes it longer than it was
            if draw.random() < 0.4:  # aim
                attempt.until(lambda: list(killed.glob("*/.last.pt.*.tmp")), pause_s=0.0005)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                attempt.send_to_group(signal.SIGKILL)
        code = attempt.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL, attempt.output
        kills += 1
        in_save += bool(list(killed.glob("*/.last.pt.*.tmp")))
        places.append("/".join(str(steps(killed / name)) for name in STAGES))
    with capsys.disabled():
        print(f"\n  seed {seed}: {kills} kills, {in_save} inside a save, after steps {', '.join(places)}; {time.monotonic() - began:.0f} s")
    for name in STAGES:
        assert same_stage(whole / name, killed / name) == [], f"DISTILLCTL_SOAK_SEED={seed}"
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (killed, whole))
    assert ours["top1"] == theirs["top1"]
    assert not list(killed.glob("**/.*.tmp"))
    assert record(killed)["status"] == "done"
    assert kills >= KILLS // 2


# what a checkpoint has to hold


class CountingScaler:
    """A scaler with a state that is not the fresh one after a few steps."""

    def __init__(self):
        self.factor = 2.0

    def scale(self, loss):
        return loss * self.factor

    def unscale_(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= self.factor

    def step(self, optimizer):
        self.unscale_(optimizer)
        optimizer.step()

    def update(self):
        self.factor *= 1.01

    def state_dict(self):
        return {"factor": self.factor}

    def load_state_dict(self, content):
        self.factor = content["factor"]


def pretrain(folder: Path, *overrides: str, asked: int = 10**9) -> Stage:
    """A stage in this process; stopped after some steps by a `StopAfter`."""
    config = configured("pretrain", folder, *PRETRAIN[1:], *overrides)
    stages = []
    before = Stage.__init__

    def noting(self, *arguments):
        before(self, *arguments)
        stages.append(self)

    with pytest.MonkeyPatch.context() as patch, session(config, folder, StopAfter(asked)) as running:
        patch.setattr(Stage, "__init__", noting)
        try:
            train(running, step(config))
        except Exception as error:
            if not str(error).startswith("interrupted"):
                raise
    return stages[-1] if stages else None


MUTATION = ["teacher=wrn_16_1", "+teacher.args.drop_rate=0.3", "trainer.clip_norm=3", "optimizer=adamw"]


def in_doubt(patch: pytest.MonkeyPatch) -> None:
    """A scaler with a state, and a first epoch that stays the best: to forget either has to show."""
    patch.setattr(Runtime, "scaler", lambda self: CountingScaler())
    patch.setattr(choose, "is_best", lambda ranked, values, best: best is None)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run to the end, and one that was stopped in the middle of its second epoch, between two log steps."""
    folder = tmp_path_factory.mktemp("mutation")
    with pytest.MonkeyPatch.context() as patch:
        in_doubt(patch)
        pretrain(folder / "whole", *MUTATION)
        pretrain(folder / "stopped", *MUTATION, asked=14)
    content = checkpoint(folder / "stopped" / "pretrain")
    assert (content["epoch"], content["step"] % 3) == (1, 1)
    return folder


def resumed(stopped: Path, folder: Path, monkeypatch) -> list[str]:
    """Go on with a copy of the stopped run; what differs from the whole one."""
    shutil.copytree(stopped / "stopped", folder)
    in_doubt(monkeypatch)
    pretrain(folder, *MUTATION)
    return same_stage(stopped / "whole" / "pretrain", folder / "pretrain")


def test_nothing_left_out_nothing_differs(stopped, tmp_path, monkeypatch):
    assert resumed(stopped, tmp_path / "run", monkeypatch) == []


ENTRIES = ["method", "optimizers", "scaler", "ema/weights", "ema/updates", *PLAIN_STATE]


def test_the_list_of_entries_is_complete(stopped):
    content = checkpoint(stopped / "stopped" / "pretrain")
    assert {entry.partition("/")[0] for entry in ENTRIES} == set(content)
    assert set(content["ema"]) == {"weights", "updates"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_is_left_out_is_missed(entry, stopped, tmp_path, monkeypatch):
    """Which proves that the comparison of all the other tests can see it."""
    load = Training.load

    def forgetful(self, content):
        fresh, content = copy.deepcopy(self.state()), dict(content)
        name, _, part = entry.partition("/")
        content[name] = content[name] | {part: fresh[name][part]} if part else fresh[name]
        load(self, content)

    monkeypatch.setattr(Training, "load", forgetful)
    with pytest.raises(CheckpointError, match="best.student is missing") if entry == "best" else contextlib.nullcontext():
        assert resumed(stopped, tmp_path / "run", monkeypatch) != []


def test_the_comparison_sees_a_single_bit():
    one = {"a": [torch.zeros(3), {"b": 1.0}]}
    other = copy.deepcopy(one)
    assert list(differences(one, other)) == []
    other["a"][0][1] = 1e-45
    other["a"][1]["b"] = 1
    assert sorted(differences(one, other)) == ["/a/0", "/a/1/b"]


@pytest.mark.parametrize("asked", [1, 9, 10, 17])
def test_every_place_to_stop_is_as_good(asked, tmp_path):
    """After the first step, at the end of an epoch (when it is asked twice), after it."""
    pretrain(tmp_path / "run", asked=asked)
    pretrain(tmp_path / "run")
    pretrain(tmp_path / "whole")
    assert same_stage(tmp_path / "whole" / "pretrain", tmp_path / "run" / "pretrain") == []


def test_logging_and_saving_more_often_change_no_number(tmp_path):
    pretrain(tmp_path / "one", "trainer.log_every=100")
    pretrain(tmp_path / "other", "trainer.log_every=1", SAVING_ALL_THE_TIME)
    one, other = (checkpoint(tmp_path / name / "pretrain") for name in ("one", "other"))
    assert {place.split("/")[1] for place in differences(one, other)} <= {"log_size"}


# signals


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_TEST_LOGS", str(folder))
        assert run(*PRETRAIN, f"hydra.run.dir={folder / 'run'}").code == 0
    return folder / "run" / "pretrain"


def in_its_stride(folder: Path, *arguments: str, **more) -> Attempt:
    """A long run that has taken its first steps."""
    attempt = Attempt(*LONG, *arguments, f"hydra.run.dir={folder}", **more)
    attempt.until(lambda: (folder / "pretrain" / "metrics.jsonl").exists() and len(metrics(folder / "pretrain")) > 2)
    return attempt


def ends_like_the_whole_one(folder: Path, whole: Path) -> None:
    """A long run cannot be compared; go on with a short one from its checkpoint instead, which knows the same first epochs."""
    assert run("pretrain", f"resume={folder}").code == 0
    assert same_stage(whole, folder / "pretrain") == []


@pytest.mark.parametrize(
    ("number", "code", "ignoring"),
    [
        (signal.SIGINT, 130, ()),
        (signal.SIGTERM, 143, ()),
        (signal.SIGHUP, 129, ()),
        (signal.SIGINT, 130, (signal.SIGINT,)),  # started with & by a shell without job control
        (signal.SIGUSR1, 143, ()),  # Slurm's warning before the time is up
    ],
)
def test_a_signal_saves_says_how_to_go_on_and_nothing_is_lost(number, code, ignoring, tmp_path, uninterrupted):
    folder = tmp_path / "run"
    attempt = Attempt(*PRETRAIN, f"hydra.run.dir={folder}", SAVING_ALL_THE_TIME, ignoring=ignoring)
    attempt.until(lambda: steps(folder / "pretrain") > 2)
    attempt.send(number)
    assert attempt.wait() == code, attempt.output
    assert attempt.problems == [f"error: interrupted; go on with: distillctl pretrain resume={folder}"]
    assert 2 < steps(folder / "pretrain") < 20
    assert (record(folder)["status"], record(folder)["exit_code"]) == ("interrupted", code)
    ends_like_the_whole_one(folder, uninterrupted)


def test_nohup_means_that_a_hangup_stops_nothing(tmp_path):
    attempt = Attempt(*PRETRAIN, f"hydra.run.dir={tmp_path / 'run'}", ignoring=(signal.SIGHUP,))
    attempt.until(lambda: (tmp_path / "run" / "pretrain").exists())
    attempt.send(signal.SIGHUP)
    assert attempt.wait() == 0, attempt.output


def test_the_second_ctrl_c_leaves_at_once(tmp_path):
    attempt = in_its_stride(tmp_path / "run")
    os.kill(attempt.pid, signal.SIGSTOP)  # so that both are there before it can take a step
    attempt.send(signal.SIGINT)
    attempt.send(signal.SIGTERM)
    os.kill(attempt.pid, signal.SIGCONT)
    assert attempt.wait() in (130, 143)
    assert attempt.output.count("once more leaves at once") == 1


def test_a_signal_before_there_are_handlers_loses_nothing(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    attempt = Attempt(*PRETRAIN, f"hydra.run.dir={folder}", SAVING_ALL_THE_TIME)
    attempt.until(lambda: steps(folder / "pretrain") > 2)
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == 143
    done, codes = steps(folder / "pretrain"), []
    for delay in (0.0, 0.05, 0.1, 0.2):
        attempt = Attempt("pretrain", f"resume={folder}")
        time.sleep(delay)
        attempt.send(signal.SIGTERM)
        codes.append(attempt.wait())
        assert "Traceback" not in attempt.output
        assert steps(folder / "pretrain") >= done
    assert set(codes) <= {-signal.SIGTERM, 143, 0}
    ends_like_the_whole_one(folder, uninterrupted)


# two at once, another machine, other data


def test_two_processes_do_not_share_a_folder_and_a_kill_frees_it(tmp_path):
    folder = tmp_path / "run"
    first = in_its_stride(folder)
    second = run("pretrain", f"resume={folder}")
    assert second.code == 5
    assert len(second.problems) == 1
    assert f"{folder} is in use by pid {first.pid} on " in second.problems[0]
    assert record(folder)["status"] == "running"  # the second has no say in it
    first.send(signal.SIGKILL)
    first.wait()
    third = Attempt("pretrain", f"resume={folder}")
    third.until(lambda: "img/s" in third.output)
    third.send(signal.SIGTERM)
    assert third.wait() == 143, third.output


def stop_after(folder: Path, *arguments: str) -> None:
    """A pretraining that was stopped after a few steps."""
    attempt = Attempt(*PRETRAIN, *arguments, f"hydra.run.dir={folder}", SAVING_ALL_THE_TIME)
    attempt.until(lambda: steps(folder / "pretrain") > 2)
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == 143, attempt.output


def test_another_machine_goes_on_with_a_notice(tmp_path):
    folder = tmp_path / "run"
    stop_after(folder)
    content, description = state.load(folder / "pretrain" / "last.pt")
    state.save(folder / "pretrain", content, description | {"threads": 64, "world": 8, "torch": "2.0"})
    attempt = run("pretrain", f"resume={folder}")
    assert attempt.code == 0
    for what in ("threads was 64 and is 1", "world was 8 and is 1", f"torch was 2.0 and is {torch.__version__}"):
        assert f"warning: {what}: going on, but not bit for bit" in attempt.output
    assert "precision was" not in attempt.output


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path):
    folder = tmp_path / "run"
    stop_after(folder)
    content = checkpoint(folder / "pretrain")
    content["method"].popitem()
    state.save(folder / "pretrain", content, {})
    attempt = run("pretrain", f"resume={folder}")
    assert attempt.code == 4
    assert len(attempt.problems) == 1
    assert "does not fit" in attempt.problems[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLCTL_TEST_LOGS", str(folder))
        assert run("train", *SMALL, "student=resnet8", "pretrain.epochs=1", "distill.epochs=1", f"hydra.run.dir={folder / 'run'}").code == 0
    return folder / "run"


def reopened(finished: Path, folder: Path) -> Path:
    """A copy of a finished run whose last stage is open again."""
    shutil.copytree(finished, folder)
    content = record(folder)
    content["stages"].pop("alone")
    (folder / "run.json").write_text(json.dumps(content | {"status": "failed"}))
    return folder


def test_a_finished_stage_is_not_touched_again(finished, tmp_path):
    folder = reopened(finished, tmp_path / "run")
    times = {file: file.stat().st_mtime_ns for name in ("pretrain", "distill") for file in (folder / name).iterdir()}
    attempt = run("train", f"resume={folder}")
    assert attempt.code == 0
    assert "pretrain: done before" in attempt.output
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert same_stage(finished / "alone", folder / "alone") == []


def test_a_finished_stage_whose_weights_are_gone_is_one_line(finished, tmp_path):
    folder = reopened(finished, tmp_path / "run")
    (folder / "distill" / "student.safetensors").unlink()
    attempt = run("train", f"resume={folder}")
    assert attempt.code == 4
    assert len(attempt.problems) == 1
    assert f"{folder}/distill/student.safetensors" in attempt.problems[0]
    assert "start a new run" in attempt.problems[0]


def test_the_last_good_checkpoint_is_used_where_the_newest_is_damaged(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    stop_after(folder)
    (folder / "pretrain" / "last.pt").write_bytes(b"")
    attempt = run("pretrain", f"resume={folder}")
    assert attempt.code == 0
    assert "last.pt: 0 bytes; going on from previous.pt, the one before" in attempt.output
    assert same_stage(uninterrupted, folder / "pretrain") == []


def test_two_damaged_checkpoints_are_one_line(tmp_path):
    folder = tmp_path / "run"
    stop_after(folder)
    for name in ("last.pt", "previous.pt"):
        (folder / "pretrain" / name).write_bytes(b"x" * 1000)
    attempt = run("pretrain", f"resume={folder}")
    assert attempt.code == 4
    assert len(attempt.problems) == 1


# files


def images(folder: Path, count: int = 24, size: int = 40) -> Path:
    """Two classes of images of noise, in folders."""
    for number in range(count):
        for label in ("bee", "cat"):
            (folder / label).mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(number * 2 + (label == "cat"))
            pixels = torch.randint(0, 256, (size, size + number % 3, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(folder / label / f"{number}.png")
    return folder


def from_files(root: Path, epochs: int = 4) -> list[str]:
    reading = ["dataset=image_folder", f"dataset.root={root}", "dataset.in_memory=never", "dataset.workers=2", "dataset.image_size=16"]
    return [
        "pretrain",
        "teacher=resnet8",
        *reading,
        "trainer.batch_size=8",
        "trainer.threads=1",
        "trainer.device=cpu",
        f"pretrain.epochs={epochs}",
    ]


def test_a_signal_to_the_whole_group_saves_although_there_are_workers(tmp_path):
    root, folder = images(tmp_path / "images"), tmp_path / "run"
    assert run(*from_files(root), f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    attempt = Attempt(*from_files(root), f"hydra.run.dir={folder}", SAVING_ALL_THE_TIME)
    attempt.until(lambda: steps(folder / "pretrain") > 2)
    attempt.send_to_group(signal.SIGTERM)
    assert attempt.wait() == 143, attempt.output
    assert len(attempt.problems) == 1, attempt.output
    assert attempt.output.count("stopping:") == 1
    assert run("pretrain", f"resume={folder}", "dataset.workers=0").code == 0
    assert same_stage(tmp_path / "whole" / "pretrain", folder / "pretrain") == []


def test_other_images_than_before_are_refused(tmp_path):
    root, folder = images(tmp_path / "images"), tmp_path / "run"
    attempt = Attempt(*from_files(root), f"hydra.run.dir={folder}", SAVING_ALL_THE_TIME)
    attempt.until(lambda: steps(folder / "pretrain") > 2)
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == 143
    (root / "bee" / "3.png").unlink()
    attempt = run("pretrain", f"resume={folder}")
    assert attempt.code == 3
    assert len(attempt.problems) == 1
    assert "not what it was when this run started" in attempt.problems[0]


def test_a_file_that_breaks_while_training_is_named_after_a_save(tmp_path):
    root, folder = images(tmp_path / "images"), tmp_path / "run"
    attempt = Attempt(*from_files(root, epochs=200), f"hydra.run.dir={folder}")
    attempt.until(lambda: steps(folder / "pretrain") > 2)
    saved = steps(folder / "pretrain")
    broken = root / "bee" / "5.png"
    broken.write_bytes(broken.read_bytes()[:300])
    assert attempt.wait() == 3, attempt.output
    assert len(attempt.problems) == 1, attempt.output
    assert str(broken) in attempt.problems[0]
    assert "Traceback" not in attempt.output
    assert steps(folder / "pretrain") >= saved
    assert record(folder)["status"] == "failed"


def test_a_broken_loss_is_not_waited_for_by_the_workers(tmp_path):
    root = images(tmp_path / "images")
    long = f"dataset.timeout_s={10 * CEILING_S:.0f}"
    attempt = run(*from_files(root, epochs=200), "optimizer.lr=1e30", long, f"hydra.run.dir={tmp_path / 'run'}")
    assert attempt.code == 6, attempt.output
    assert len(attempt.problems) == 1, attempt.output
    assert attempt.problems[0].startswith("error: loss is ")


def test_a_worker_that_dies_is_one_line_after_a_save(tmp_path):
    root, folder = images(tmp_path / "images"), tmp_path / "run"
    attempt = Attempt(*from_files(root, epochs=200), f"hydra.run.dir={folder}")
    attempt.until(lambda: steps(folder / "pretrain") > 2)

    def kill_a_worker() -> None:  # they come and go with the epochs
        with contextlib.suppress(OSError):
            for worker in Path(f"/proc/{attempt.pid}/task/{attempt.pid}/children").read_text().split()[:1]:
                os.kill(int(worker), signal.SIGKILL)

    attempt.until(kill_a_worker, pause_s=0.1)
    assert attempt.wait() == 5, attempt.output
    assert len(attempt.problems) == 1, attempt.output
    assert "a data worker died" in attempt.problems[0]
    assert steps(folder / "pretrain") > 2
