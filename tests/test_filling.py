"""A pass that asks a teacher about all that is missing, its price beforehand, and sweeps whose jobs share what they ask."""

import copy
import functools
import multiprocessing
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from commands import Finished
from processes import CEILING_S, StopAfter, configured
from safetensors.torch import load_file

from distillctl import compose
from distillctl.commands import cache as command
from distillctl.config import AugmentConfig
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, ReadOptions
from distillctl.data.loader import Place
from distillctl.data.split import Split
from distillctl.errors import UserError
from distillctl.metrics import stopwatch
from distillctl.runs import fill, keeping
from distillctl.runs.execute import execute
from distillctl.runs.plan import plan
from distillctl.runs.session import session
from distillctl.teachers import store as files
from distillctl.teachers.caches import caches
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store

WORDS = ("dataset.subset=100", "trainer.batch_size=32", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")
IMAGES, VIEWS = 90, 2  # 100 without those for validation; a view has three batches of 30
BANK = f"dataset.views={VIEWS}"


@pytest.fixture(scope="module")
def plain(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory):
    """The config of `distillctl cache`, composed once."""
    return configured("cache", tmp_path_factory.mktemp("plain"), f"teacher.checkpoint={tiny_run / 'pretrain'}", *WORDS)


@pytest.fixture
def cache(plain, tmp_path: Path, monkeypatch, capsys):
    """`cache("fill", "key=value")`: what the command does, without the command line."""
    monkeypatch.chdir(tmp_path)

    def run(action: str, *words: str) -> Finished:
        config = copy.deepcopy(plain)
        for word in (f"action={action}", *words):
            key, _, value = word.partition("=")
            *parents, name = key.split(".")
            place = functools.reduce(getattr, parents, config)
            assert hasattr(place, name), word
            setattr(place, name, yaml.safe_load(value))
        try:
            command.run(config, None)
            return Finished(0, capsys.readouterr().out, "")
        except UserError as error:
            return Finished(error.exit_code, capsys.readouterr().out, str(error))

    return run


def counts(output: str) -> tuple[int, int]:
    """How many answers are there, and how many are to be asked for, by the line of the plan."""
    found = re.search(r"; ([\d,]+) answers are there and ([\d,]+) to be asked for", output)
    assert found, output
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def asked(output: str) -> int:
    """By the line at the end."""
    found = re.search(r"([\d,]+) answers asked for in .*; all ([\d,]+) are there, .* in outputs/.cache/", output)
    assert found, output
    return int(found[1].replace(",", ""))


def whole(tmp_path: Path) -> list[int]:
    """Of each view: how many records are whole."""
    [found] = caches(tmp_path / "outputs/.cache")
    kept = found.store(lambda problem: None)
    assert kept is not None
    return [int(kept.inspected(view)[0].sum()) for view in found.views]


# ------------------------------------------------------------------------------------------------ filling
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_by_filled_answers_a_run_ends_at_the_weights_of_a_live_one(mixup, cache, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("distillctl.runs.execute.conclude", lambda session, plan, made: 0.0)
    filled = cache("fill", BANK, f"dataset.augment.mixup={mixup}", "teacher.cache.dtype=fp32")
    assert (filled.code, filled.err) == (0, "")
    assert whole(tmp_path) == [IMAGES] * VIEWS
    words = (f"teacher.checkpoint={tiny_run / 'pretrain'}", "student=resnet8", "distill.epochs=3", "teacher.cache.dtype=fp32")
    config = configured("distill", tmp_path, *words, *WORDS, BANK, f"dataset.augment.mixup={mixup}")
    for config.teacher.cache.mode in ("off", "require"):
        folder = tmp_path / config.teacher.cache.mode
        with session(config, folder, StopAfter(10**9)) as running:
            execute(running)
    assert "270 answers were read, 0 asked for" in capsys.readouterr().out
    live, reading = (load_file(tmp_path / mode / "distill/student.safetensors") for mode in ("off", "require"))
    assert all(torch.equal(live[name], reading[name]) for name in live)


def test_each_answer_is_asked_for_once_and_the_rest_another_time(cache, tmp_path):
    first = cache("fill", "views=1")
    assert counts(first.out) == (0, IMAGES)
    assert asked(first.out) == IMAGES
    more = cache("fill", BANK)
    assert counts(more.out) == (IMAGES, IMAGES)
    assert asked(more.out) == IMAGES
    again = cache("fill", BANK)
    assert (again.code, counts(again.out)) == (0, (VIEWS * IMAGES, 0))
    assert "nothing was asked" in again.out
    assert whole(tmp_path) == [IMAGES] * VIEWS


class Stopping(StopAfter):
    """Asks to stop as a signal would."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        return None


def test_an_interrupted_pass_goes_on_where_it_stopped(cache, tmp_path, monkeypatch):
    """It looks after each batch: after three that are timed, and two of those that are kept."""
    with monkeypatch.context() as patch:
        patch.setattr(fill, "StopRequest", lambda: Stopping(4))
        stopped = cache("fill", BANK)
    assert stopped.code == 143
    assert stopped.err == "interrupted; what was asked for is kept, and the same command goes on"
    resumed = cache("fill", BANK)
    assert counts(resumed.out) == (60, VIEWS * IMAGES - 60)
    assert asked(resumed.out) == VIEWS * IMAGES - 60
    assert whole(tmp_path) == [IMAGES] * VIEWS


def test_a_damaged_record_is_repaired(cache, tmp_path):
    assert cache("fill", BANK).code == 0
    [file] = tmp_path.glob("outputs/.cache/*/view-00001.bin")
    content = np.fromfile(file, np.uint32).reshape(IMAGES, -1)
    content[7, 2] ^= 1
    content.tofile(file)
    assert whole(tmp_path) == [IMAGES, IMAGES - 1]
    repaired = cache("fill", BANK)
    assert counts(repaired.out) == (VIEWS * IMAGES - 1, 1)
    assert asked(repaired.out) < 32
    assert whole(tmp_path) == [IMAGES] * VIEWS


def test_a_plan_writes_nothing(cache, tmp_path):
    planned = cache("plan", BANK, "dir=somewhere/else")
    assert (planned.code, planned.err) == (0, "")
    assert counts(planned.out) == (0, VIEWS * IMAGES)
    assert re.search(r"2 views x 90 images, 4.9 KiB in somewhere/else/\w+, .* 4.9 KiB more, about .* s \(measured on ", planned.out)
    assert not (tmp_path / "somewhere").exists()
    assert not (tmp_path / "outputs/.cache").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "action=fill: it is not said how many views; set dataset.views=N"),
        ((BANK, "views=3"), "views=3 is more than dataset.views=2"),
        ((BANK, "dir=one", "teacher.cache.dir=other"), "dir=one and teacher.cache.dir=other differ"),
        ((BANK, "teacher.checkpoint=null"), "teacher.checkpoint is not set"),
        ((BANK, "trainer.batch_size=500"), "trainer.batch_size=500 is more than the 90 training images"),
    ],
)
def test_what_cannot_be_filled_is_one_line(words, line, cache, tmp_path):
    finished = cache("fill", *words)
    assert finished.code == 2
    assert finished.err.startswith(line)
    assert "\n" not in finished.err
    assert not (tmp_path / "outputs/.cache").exists()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("method=self", "action=plan: no loss reads a teacher here"),
        ("loss=ce", "action=plan: no loss reads a teacher here"),
        ("teacher.cache.mode=require", "teacher.cache.mode=require: nothing may be kept"),
        ("loss=[kd,at]", "action=plan: answers of this teacher are not kept, as its feature maps are read"),
        ("method=data_free", "action=plan: answers of this teacher are not kept, as the method asks it about other images"),
    ],
)
def test_what_no_answer_would_serve_is_one_line(word, line, distillctl, tiny_run, tmp_path):
    finished = distillctl("cache", "action=plan", word, f"teacher.checkpoint={tiny_run / 'pretrain'}", *WORDS, BANK, cwd=tmp_path)
    assert finished.code == 2
    assert finished.err.startswith(f"error: {line}")
    assert finished.err.count("\n") == 1


def test_without_room_nothing_is_begun(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(fill.shutil, "disk_usage", lambda place: SimpleNamespace(free=keeping.SPARE + 100))
    finished = cache("fill", BANK)
    assert finished.code == 5
    assert "are for others, and the teacher's answers need 4.9 KiB more; free some space, set teacher.cache.dir" in finished.err
    assert counts(finished.out) == (0, VIEWS * IMAGES)
    assert not (tmp_path / "outputs/.cache").exists()


def test_a_disk_that_fills_up_ends_the_pass(cache, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "pwrite", full)
    finished = cache("fill", BANK)
    assert finished.code == 5
    assert finished.err.startswith("the teacher's answers can be kept no more")


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_the_batches_of_all_ranks_cover_every_sample(mixup):
    images = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
    split = Split(images, torch.zeros(50, dtype=torch.int64), torch.arange(50) * 3 + 1)
    seen = []
    for rank in range(2):
        augment = Augment(AugmentConfig(mixup=mixup), 8, 5, seed=4)
        batches = ImageLoader(split, augment, 16, 9, Place(torch.device("cpu"), rank, 2), ReadOptions(8), views=3)
        assert [len(rows) for rows in batches.covering(1)] == [16] * 4
        assert torch.equal(torch.cat(batches.covering(1))[:50], batches.order(1))
        found = list(batches.batches(batches.covering(1), 1))
        assert {(len(batch.index), batch.view) for batch in found} == {(8, 1)}
        seen += [batch.index for batch in found]
    assert set(torch.cat(seen).tolist()) == set(split.index.tolist())


# ------------------------------------------------------------------------------------------------ sharing
def record(folder: Path) -> Store:
    return Store(folder, "secret", Layout(1, 5), 9, print)


def hold(folder: Path, holds, go_on) -> None:
    """Ask about row 3, slowly, and keep the answer."""
    kept = record(folder)
    with kept.claimed(0, 3):
        holds.set()
        go_on.wait()
        time.sleep(0.1)
        kept.write(0, np.array([3]), np.array([7], np.uint32), kept.layout.encode(torch.ones(1, 1, 5)))


def test_who_misses_what_another_asks_for_waits_and_finds_it(tmp_path):
    fork = multiprocessing.get_context("fork")
    holds, go_on = fork.Event(), fork.Event()
    other = fork.Process(target=hold, args=(tmp_path, holds, go_on))
    other.start()
    assert holds.wait(CEILING_S)
    mine = record(tmp_path)
    with mine.claimed(0, 4):  # another place is free
        assert not mine.read(0, np.array([3]), np.array([7], np.uint32))[1].any()
    go_on.set()
    with mine.claimed(0, 3):
        assert mine.read(0, np.array([3]), np.array([7], np.uint32))[1].all()
    other.join()


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", 0.05)
    fork = multiprocessing.get_context("fork")
    holds, go_on = fork.Event(), fork.Event()
    other = fork.Process(target=hold, args=(tmp_path, holds, go_on))
    other.start()
    assert holds.wait(CEILING_S)
    os.kill(other.pid, 19)  # SIGSTOP
    try:
        with record(tmp_path).claimed(0, 3):
            pass
    finally:
        other.kill()
        other.join()


@pytest.mark.parametrize(
    ("command", "words", "shares"),
    [
        ("distill", "loss.kd.temperature=1,2", True),
        ("distill", "loss.kd.temperature=1,2 seed=0,1", True),
        ("distill", "loss=kd,dkd", True),
        ("distill", "optimizer.lr=0.1,0.05", True),
        ("distill", "student=glob(*)", True),
        ("distill", "distill.epochs=range(2,4)", True),
        ("distill", "+student.args.depth=8,14", True),
        ("distill", "distill.epochs=range(2,3)", False),
        ("distill", "loss.kd.temperature=1 hydra.launcher.n_jobs=1,2", False),
        ("distill", "assistants=[resnet14]", False),
        ("distill", "seed=0,1", False),
        ("distill", "dataset=digits,mnist", False),
        ("distill", "dataset.augment.pad=1,2", False),
        ("distill", "teacher.checkpoint=a,b", False),
        ("distill", "trainer=default,laptop", False),
        ("distill", "trainer.precision=fp32,bf16", False),
        ("distill", "trainer.compile=true,false", False),
        ("distill", "trainer.ema_decay=0,0.99", True),
        ("distill", "loss.kd.temperature=1,2 teacher.cache.shared=false", False),
        ("distill", "loss.kd.temperature=1,2 hydra/sweeper=optuna", False),
        ("train", "loss.kd.temperature=1,2", True),
        ("train", "loss.kd.temperature=1,2 pretrain.reuse=false", False),
        ("train", "loss.ce.weight=0,1", False),
        ("train", "loss=kd,binary_kl", False),
        ("train", "optimizer.lr=0.1,0.05", False),
        ("train", "trainer.ema_decay=0,0.99", False),
        ("train", "pretrain.epochs=1,2", False),
        ("pretrain", "optimizer.lr=0.1,0.05", False),
        ("distill", "loss.kd.temperature=1,", False),
    ],
)
def test_a_sweep_is_shared_where_jobs_differ_in_neither_views_nor_teacher(command, words, shares):
    given = words.split()
    assert compose.shared(command, given) == given + ["teacher.cache.shared=true"] * shares


def test_a_teacher_that_the_run_trains_itself_is_nobody_elses():
    def shared(name: str, *words: str, command: str = "train") -> bool:
        config = configured(command, Path(), "teacher=resnet8", "teacher.cache.shared=true", *words)
        return keeping.is_shared(config, plan(config).step(name))

    assert shared("distill")
    assert shared("distill", "teacher.checkpoint=run", command="distill")
    assert not shared("distill-2", "generations=2")
    assert shared("distill-2", "generations=2", "dataset.view_seed=1")
    assert not shared("distill", "assistants=[resnet14]")
    assert shared("assistant-1", "assistants=[resnet14]")
    assert not shared("assistant-2", "assistants=[resnet14,resnet8]")


def test_the_time_of_the_first_batch_counts_only_where_it_is_alone(monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 21.0, 30.0, 33.0])
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: next(clock))
    batch = SimpleNamespace(index=range(4))
    timed = stopwatch.Stopwatch([batch, batch, batch], torch.device("cpu"))
    assert list(timed) == [batch] * 3
    assert timed.seconds_per_sample == 4.0 / 8
    timed.seconds = timed.seconds[:1]
    assert timed.seconds_per_sample == 2.5
