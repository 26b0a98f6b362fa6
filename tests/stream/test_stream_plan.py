"""What a stream will do is a value: pure, said by `--plan`, and what the run then does."""

import dataclasses
from pathlib import Path

import pytest
from processes import StopAfter, configured
from streams import FAST, dated, folder, table

from distillctl.errors import ConfigError
from distillctl.models import net
from distillctl.runs.session import session
from distillctl.runs.stream.driver import Pass
from distillctl.runs.stream.plan import Keeps, StreamPlan, plan
from distillctl.runs.stream.preview import taught
from distillctl.runs.stream.results import conclude

HERE = Path(__file__).parent
WATCH = ("dataset=image_folder", "dataset.image_size=8", "stream.source=watch", "stream.idle_s=0.1", "stream.poll_s=0.001")


def planned(*words: str) -> StreamPlan:
    return plan(configured("stream", HERE, *words))


def test_without_a_word_an_average_teaches_kept_samples_of_the_digits():
    todo = planned()
    assert (todo.source, todo.where, todo.samples, todo.batch_size) == ("dataset", "digits", None, 10)
    assert todo.order == "5 stretches of classes, one after the other"
    assert (todo.student, todo.beside, todo.final) == ("resnet8", ("alone",), "student")
    assert (todo.teacher.kind, todo.teacher.model, todo.teacher.taught, todo.teacher.refresh) == ("ema", None, "memory", "never")
    assert todo.memory == Keeps(200, 10, "reservoir")
    assert todo.detector is None
    assert (todo.gate.every, todo.gate.by, todo.gate.keeps) == (500, "difference", None)


def test_a_larger_teacher_that_learns_is_said_with_its_refresh():
    todo = planned("teacher=resnet20", "stream.refresh=drift", "stream.refresh_steps=7", "stream.forget=true", "memory.batch_size=3")
    assert (todo.teacher.model, todo.teacher.taught, todo.teacher.steps, todo.teacher.every) == ("resnet20", "all", 7, None)
    assert (todo.detector.name, todo.detector.signal, todo.detector.forget) == ("adwin", "error", True)
    assert todo.memory.batch_size == 3
    assert taught(todo.teacher) == "resnet20, asked of new and kept samples; when a drift is told it learns for 7 steps"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stream.teacher=none"], "nobody: labels and memory alone"),
        (["stream.teacher=ema"], "an average of the student's weights, asked of kept samples; follows at each step"),
        (
            ["stream.teacher=student", "stream.refresh=every", "stream.refresh_every=1500"],
            "a copy of the student, asked of kept samples; every 1,500 samples it is taken anew",
        ),
        (["teacher.checkpoint=runs/first"], "runs/first, asked of new and kept samples; stays as it is"),
    ],
)
def test_who_teaches_is_said_in_words(words, said):
    assert taught(planned(*words).teacher) == said


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["stream.drift=none"], "all classes mixed"),
        (["stream.drift=gradual", "stream.phases=2"], "2 stretches of classes, that overlap"),
        (["stream.drift=none", "stream.shuffled=[900,1100]"], "all classes mixed; labels drawn anew from 900 to 1,100"),
    ],
)
def test_the_order_of_a_data_set_is_said_in_words(words, order):
    assert planned(*words).order == order


def test_planning_is_pure_and_builds_no_net(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a net was built")

    monkeypatch.setattr(net, "_build", refuse)
    assert planned("teacher=resnet20", "stream.refresh=drift") == planned("teacher=resnet20", "stream.refresh=drift")
    with pytest.raises(dataclasses.FrozenInstanceError):
        planned().source = "watch"


def test_what_learns_nothing_has_no_plan():
    with pytest.raises(ConfigError, match="action=history learns nothing"):
        planned("action=history", "folder=run")


def everything(run: Path) -> set[str]:
    return {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and file.name != ".lock"}


@pytest.mark.parametrize("source", ["dataset", "watch"])
def test_a_run_writes_what_its_plan_says_and_nothing_else(source: str, tmp_path: Path):
    words = [*FAST, "stream.release_every=20", "stream.samples=40", "stream.save_every=1"]
    if source == "watch":
        words += [*WATCH, f"stream.path={folder(tmp_path / 'in', 40)}"]
    config = configured("stream", tmp_path / "run", *words)
    with session(config, tmp_path / "run", StopAfter(10**9)) as running:
        found = Pass(running, running.bundle(config.dataset))
        found.run()
        conclude(found)
    written = {name for name in everything(tmp_path / "run") if not name.startswith(("versions/", ".hydra/"))}
    assert written == {name for name in plan(config).writes if name != "versions/"}
    assert any(name.startswith("versions/") for name in everything(tmp_path / "run"))


# --plan


def test_it_is_printed_and_nothing_is_left_behind(distillctl, tmp_path: Path):
    printed = distillctl("stream", *FAST, "stream.keep_versions=3", "stream.gate=significant", "--plan", cwd=tmp_path)
    assert (printed.code, printed.err) == (0, "")
    told = " ".join(printed.out.split())
    for words in ("digits (dataset), 1,294 samples", "an average of the student's weights", "the last 3 stay", "at most 0.05 of all cases"):
        assert words in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "said"), [("folders", "60 samples"), ("csv", "40 samples"), ("watch", "until it is stopped")])
def test_what_lies_there_by_now_is_counted(kind: str, said: str, distillctl, tmp_path: Path):
    place = {"folders": dated, "csv": table, "watch": folder}[kind](tmp_path / "in")
    words = [f"stream.path={place}", *(["stream.samples=40"] if kind == "csv" else []), *(WATCH if kind == "watch" else [])]
    before = everything(tmp_path)
    printed = distillctl("stream", *FAST, *words, "--plan", cwd=tmp_path)
    assert (printed.code, printed.err) == (0, "")
    assert f"({kind}), {said}" in " ".join(printed.out.split())
    assert everything(tmp_path) == before


def test_of_a_run_that_was_begun_it_says_how_far_that_is(distillctl, tmp_path: Path):
    words = [*FAST, "stream.release_every=null"]
    assert distillctl("stream", *words, "stream.samples=40", "hydra.run.dir=run", cwd=tmp_path).code == 0
    told = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(told.replace('"status": "done"', '"status": "interrupted"'))
    before = {name: (tmp_path / name).read_bytes() for name in everything(tmp_path)}
    printed = distillctl("stream", "resume=run", "--plan", cwd=tmp_path)
    assert (printed.code, printed.err) == (0, "")
    assert "goes on behind 40 samples" in printed.out
    assert {name: (tmp_path / name).read_bytes() for name in everything(tmp_path)} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["action=rollback", "folder=run"], "--plan: action=rollback learns nothing; leave one of them out"),
        (["stream.teacher=model"], "no teacher is named"),
        (["stream.path=nowhere"], "no such file or folder"),
        (["-m", "seed=0,1"], "--plan shows one run at a time"),
    ],
)
def test_a_plan_that_cannot_be_is_a_line(words: list[str], said: str, distillctl, tmp_path: Path):
    refused = distillctl("stream", *words, "--plan", cwd=tmp_path)
    assert refused.code in (2, 3)
    assert refused.err.count("\n") == 1
    assert said in refused.err
