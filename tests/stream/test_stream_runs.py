"""A stream from its first sample to its deployed model: predicted before it is learnt, learnt once, released through the gate, put back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import StopAfter, checkpoint, configured, differences
from streams import FAST, FILES, dated, digits, folder, history, lines, summary, table, write

from distillctl.commands.stream import learn
from distillctl.errors import CheckpointError, DataError, Interrupted
from distillctl.runs.session import session
from distillctl.runs.stream import ordered
from distillctl.runs.stream import releases as released
from distillctl.runs.stream.driver import Pass
from distillctl.runs.stream.learner import Learner
from distillctl.runs.stream.releases import Releases
from distillctl.runs.stream.results import conclude

SHORT = (*FAST, "stream.samples=200", "stream.release_every=100")
NEVER = 10**9


def stream(folder: Path, *words: str, stop: int = NEVER) -> Pass:
    """A run, or what is left of it, in this process."""
    config = configured("stream", folder, *words)
    with session(config, folder, StopAfter(stop)) as running:
        found = Pass(running, running.bundle(config.dataset))
        found.run()
        conclude(found)
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 digits, with an average that teaches and a student alone."""
    place = tmp_path_factory.mktemp("done") / "run"
    stream(place, *SHORT)
    return place


# predict, then learn


def test_a_batch_is_answered_before_its_labels_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Other labels in one batch change no answer to that batch nor to any before, and those behind it."""

    def logits(name: str, *words: str) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        own = Learner.answers
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "answers", lambda self, inputs: found.append(own(self, inputs)) or found[-1])
            stream(tmp_path / name, *FAST, "stream.samples=150", "stream.teacher=none", "stream.release_every=null", *words)
        return found

    plain, spoilt = logits("plain"), logits("spoilt", "stream.shuffled=[100,110]")
    same = [torch.equal(one, other) for one, other in zip(plain, spoilt, strict=True)]
    assert same == [True] * 11 + [False] * 4


def test_what_is_counted_is_what_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answered: list[torch.Tensor] = []
    own = Learner.answers
    monkeypatch.setattr(Learner, "answers", lambda self, inputs: answered.append(own(self, inputs)) or answered[-1])
    found = stream(tmp_path / "run", *FAST, "stream.samples=100", "stream.teacher=none", "stream.window=40")
    labels = torch.tensor([entry.label for entry in found.source.batch(0, 100)])
    right = (torch.cat(answered).argmax(1) == labels).double()
    score = found.scores["student"].figures()
    assert score["prequential"] == pytest.approx(float(right.mean()))
    assert score["windowed"] == pytest.approx(float(right[-40:].mean()))


# learnt once


def test_every_sample_is_learnt_once_or_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    own = Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda self, batch: seen.extend(batch.index.tolist()) or own(self, batch))
    found = stream(tmp_path / "run", *SHORT, "stream.beside=[]")
    assert len(seen) == len(set(seen)) == found.progress.learnt
    assert set(seen).isdisjoint(found.held.index.tolist())
    assert sorted([*seen, *found.held.index.tolist()]) == list(range(200))


def test_the_lines_of_a_run_cover_the_stream_without_gap_or_overlap(done: Path):
    found = lines(done)
    assert [line["first"] for line in found] == [0, *(line["position"] for line in found[:-1])]
    assert found[-1]["position"] == 200
    assert found[-1]["learnt"] + found[-1]["held_out"] == 200


def test_the_summary_has_the_accuracy_by_time(done: Path):
    curve, found = summary(done)["stream"]["curve"], lines(done)
    assert [point["position"] for point in curve] == [line["position"] for line in found]
    assert curve[-1]["windowed"] == next(row["windowed"] for row in summary(done)["rows"] if row["model"] == "student")
    assert curve[-1]["alone.fading"] == next(row["fading"] for row in summary(done)["rows"] if row["model"] == "alone")


def test_the_student_alone_sees_the_same_samples(done: Path):
    rows = {row["model"]: row for row in summary(done)["rows"]}
    assert set(rows) == {"average", "student", "alone"}
    told = checkpoint(done / "stream")["learners"]
    assert told["student"]["samples"] == told["alone"]["samples"] == summary(done)["stream"]["learnt"]


def test_the_student_alone_is_the_one_that_runs_without_a_teacher(done: Path, tmp_path: Path):
    stream(tmp_path / "run", *SHORT, "stream.teacher=none")
    one, other = checkpoint(done / "stream")["learners"]["alone"], checkpoint(tmp_path / "run" / "stream")["learners"]["student"]
    assert list(differences(one, other)) == []


# stopped and gone on with


@pytest.mark.parametrize("asked", [1, 7, 19])
@pytest.mark.parametrize(
    "words",
    [
        ("stream.detector=adwin", "stream.save_every=4"),
        ("stream.teacher=student", "stream.refresh=every", "stream.refresh_every=60", "stream.forget=true"),
        ("teacher=resnet20", "stream.refresh=every", "stream.refresh_every=80", "stream.refresh_steps=3", "optimizer=sgd"),
        ("stream.teacher=none", "memory.select=balanced", "memory.size=20", "trainer.accumulate=2"),
    ],
    ids=["average", "snapshot", "larger", "none"],
)
def test_a_stream_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path, words: tuple[str, ...], asked: int):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    stream(whole, *SHORT, *words)
    with pytest.raises(Interrupted, match="distillctl stream resume="):
        stream(stopped, *SHORT, *words, stop=asked)
    stream(stopped, *SHORT, *words)
    assert same_run(whole, stopped) == []


def same_run(one: Path, other: Path) -> list[str]:
    """Where two runs differ: state, lines, figures, every file that was released."""
    found = [place for place in differences(checkpoint(one / "stream"), checkpoint(other / "stream")) if "log_size" not in place]
    found += ["metrics"] if lines(one) != lines(other) else []
    found += ["summary"] if summary(one) != summary(other) else []
    files = sorted(file.relative_to(one) for file in one.glob("*/**/student.*") if file.is_file()) + [Path("deployed/history.json")]
    assert len(files) > 2
    return found + [str(file) for file in files if (one / file).read_bytes() != (other / file).read_bytes()]


@pytest.mark.parametrize("left_out", ["guide", "scores", "held", "recent", "learners", "progress"])
def test_a_checkpoint_that_lacks_something_is_refused(done: Path, tmp_path: Path, left_out: str):
    from distillctl import state

    shutil.copytree(done, tmp_path / "run")
    content, about = state.load(tmp_path / "run" / "stream" / "last.pt")
    del content[left_out]
    state.save(tmp_path / "run" / "stream", content, {name: value for name, value in about.items() if name != "format_version"})
    with pytest.raises(CheckpointError, match="does not fit this stream"):
        stream(tmp_path / "run", *SHORT)


def test_what_was_learnt_may_not_change_before_a_run_goes_on(tmp_path: Path):
    file = table(tmp_path / "in")
    words = (*FILES, "dataset=image_folder", f"stream.path={file}")
    with pytest.raises(Interrupted):
        stream(tmp_path / "run", *words, stop=3)
    file.write_text(file.read_text().replace("0002.png,2,", "0002.png,1,"))
    with pytest.raises(DataError, match="of the 40 samples that were learnt already"):
        stream(tmp_path / "run", *words)


def test_a_table_may_grow_between_two_attempts(tmp_path: Path):
    file = table(tmp_path / "in")
    whole = file.read_text()
    words = (*FILES, "dataset=image_folder", f"stream.path={file}")
    file.write_text("\n".join(whole.splitlines()[:41]) + "\n")
    with pytest.raises(Interrupted):
        stream(tmp_path / "run", *words, stop=2)
    file.write_text(whole)
    assert stream(tmp_path / "run", *words).progress.position == 60


# sources


@pytest.mark.parametrize("kind", ["folders", "csv", "watch"])
def test_each_source_is_learnt_to_its_end_and_ships(tmp_path: Path, kind: str, distillctl):
    place = {"folders": dated, "csv": table, "watch": folder}[kind](tmp_path / "in")
    more = ("stream.source=watch", "stream.idle_s=0.01", "stream.poll_s=0.001", "dataset.image_size=8") if kind == "watch" else ()
    finished = distillctl("stream", *FILES, f"stream.path={place}", *more, "hydra.run.dir=run", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, ""), finished.err
    assert summary(tmp_path / "run")["stream"]["samples"] == 60
    [(image, _)] = digits(1)
    write(tmp_path / "one.png", image)
    answer = distillctl("predict", "checkpoint=run/deployed", "inputs=[one.png]", "format=jsonl", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out.splitlines()[0])["answers"][0]["class"] in ("0", "1", "2")


def test_a_stream_without_labels_is_learnt_by_its_teacher(tmp_path: Path):
    teacher, place = tmp_path / "teacher", table(tmp_path / "in", labelled=False)
    stream(teacher, *FAST, "stream.samples=100")
    words = ("dataset=image_folder", f"stream.path={place}", f"teacher.checkpoint={teacher / 'deployed'}", "dataset.labels=false")
    classes = f"stream.classes=[{','.join(map(str, range(10)))}]"
    found = stream(tmp_path / "run", *FILES, *words, classes, "stream.detector=adwin")
    assert found.progress.learnt + found.progress.held_out == 60
    assert found.signal == "disagreement"
    assert found.scores["student"].seen == 0
    assert 0 <= found.progress.releases[-1]["accuracy"] <= 1  # the share of what was held out that it answers as its teacher does


def test_a_data_set_on_the_disk_is_read_as_the_deployed_model_is_asked(tmp_path: Path):
    words = ("dataset=image_folder", f"dataset.root={folder(tmp_path / 'in', 150)}", "dataset.in_memory=never", "dataset.image_size=8")
    found = stream(tmp_path / "run", *FILES, *words, "dataset.workers=0", "stream.samples=40")
    assert found.progress.position == 40
    record = json.loads((tmp_path / "run" / "versions" / "0001" / "student.json").read_text())
    assert record["preprocessing"]["resize"] == record["preprocessing"]["image_size"] == 8


def test_a_bad_file_is_left_out_where_that_is_asked_for(tmp_path: Path):
    place = table(tmp_path / "in")
    (tmp_path / "in" / "0013.png").write_bytes(b"no image")
    words = (*FILES, "dataset=image_folder", f"stream.path={place}", "dataset.on_bad_image=skip")
    found = stream(tmp_path / "run", *words)
    assert (found.progress.position, found.progress.left_out) == (60, 1)
    assert found.progress.learnt + found.progress.held_out == 59


def test_a_class_that_comes_late_is_named(tmp_path: Path):
    place = folder(tmp_path / "in")
    words = (*FILES, "dataset=image_folder", f"stream.path={place}", "stream.source=watch", "stream.idle_s=0.01", "dataset.image_size=8")
    stream(tmp_path / "run", *words)
    [(image, _)] = digits(1)
    write(place / "cat" / "x.png", image)
    with pytest.raises(DataError, match="cat/x.png is of class 'cat'"):
        stream(tmp_path / "run", *words)


# drifts


def test_drifts_of_class_order_are_told_soon_after_each(tmp_path: Path):
    found = stream(tmp_path / "run", *FAST, "stream.teacher=none", "stream.detector=adwin", "stream.release_every=null", "stream.phases=3")
    split = found.bundle.data.train
    stretches = ordered.times(split, 10, found.stage).floor().sort().values
    changes = (stretches.diff().nonzero().flatten() + 1).tolist()
    assert len(changes) == len(found.progress.drifts) == 2
    for change, told in zip(changes, found.progress.drifts, strict=True):
        assert change < told <= change + 100


def test_a_drift_refreshes_the_teacher_and_says_what_it_was_worth(tmp_path: Path):
    words = ("stream.teacher=student", "stream.refresh=drift", "stream.beside=[]", "stream.release_every=null")
    found = stream(tmp_path / "run", *FAST, *words)
    assert [line["position"] for line in found.progress.refreshes] == found.progress.drifts != []
    assert found.progress.refreshes[0]["before"] is None
    assert all(0 <= line["after"] <= 1 for line in found.progress.refreshes)


# the gate


def test_a_stretch_of_shuffled_labels_is_kept_out(tmp_path: Path):
    """Behind a stretch of 200 samples with labels drawn at random, the student is no better than what is deployed."""
    words = ("stream.teacher=none", "stream.drift=none", "stream.holdout=0.2", "optimizer.lr=0.1", "memory.size=100", "memory.batch_size=5")
    stream(tmp_path / "run", *FAST, *words, "stream.release_every=100", "stream.shuffled=[900,1100]")
    found = history(tmp_path / "run")
    within = [line for line in found if 900 < line["position"] <= 1100]
    assert [line["what"] for line in within] == ["refused", "refused"]
    before = [line for line in found if line["what"] == "released" and line["position"] <= 900][-1]
    assert {line["deployed"] for line in within} == {before["version"]}
    assert all(line["accuracy"] < line["deployed_accuracy"] for line in within)


def test_a_verdict_is_by_what_was_never_learnt(done: Path):
    [*_, last] = history(done)
    assert last["held_out"] == summary(done)["stream"]["held_out"]


# what is deployed


def deployed(run: Path) -> bytes:
    return (run / "deployed" / "student.safetensors").read_bytes()


def version(run: Path, number: int) -> bytes:
    return (run / "versions" / f"{number:04d}" / "student.safetensors").read_bytes()


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy of a run that has released two models at least."""
    shutil.copytree(done, tmp_path / "run")
    assert sum(line["what"] == "released" for line in history(tmp_path / "run")) >= 2
    return tmp_path / "run"


def test_rolling_back_gives_the_old_bytes_again(run: Path, distillctl, tmp_path: Path):
    newest = Releases(run).current
    assert newest is not None
    assert deployed(run) == version(run, newest)
    finished = distillctl("stream", "action=rollback", "folder=run", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert deployed(run) == version(run, newest - 1)
    assert history(run)[-1]["what"] == "rolled back"
    finished = distillctl("stream", "action=rollback", "folder=run", f"version={newest}", cwd=tmp_path)
    assert finished.code == 0
    assert deployed(run) == version(run, newest)
    shown = distillctl("stream", "action=history", "folder=run", cwd=tmp_path)
    assert f"deployed: version {newest}" in shown.out
    assert shown.out.count("rolled back") == 2


def test_a_rollback_stays_when_the_run_goes_on(run: Path):
    """What is released after it is held against what was put back."""
    Releases(run).roll_back(1)
    stream(run, *SHORT)
    assert deployed(run) == version(run, 1)
    assert history(run)[-1]["what"] == "rolled back"


def test_a_rollback_in_the_middle_of_a_run_is_what_the_next_model_is_held_against(tmp_path: Path):
    words = (*FAST, "stream.samples=300", "stream.release_every=100")
    with pytest.raises(Interrupted):
        stream(tmp_path / "run", *words, stop=25)
    assert Releases(tmp_path / "run").current == 2
    Releases(tmp_path / "run").roll_back(1)
    stream(tmp_path / "run", *words)
    assert history(tmp_path / "run")[-1]["deployed"] == 1


@pytest.mark.parametrize("moment", ["before the history", "behind the history"])
def test_a_crash_while_a_model_is_deployed_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    """The same files as of a run that did not crash, and the old one or the new one meanwhile."""

    class Crash(BaseException):
        pass

    def crash(*arguments):
        raise Crash

    stream(tmp_path / "whole", *SHORT)
    with pytest.raises(Interrupted):
        stream(tmp_path / "run", *SHORT, stop=15)
    before = deployed(tmp_path / "run")
    with monkeypatch.context() as patch:
        if moment == "before the history":
            patch.setattr(released.Releases, "note", crash)
        else:
            settle, calls = released.Releases.settle, iter(range(3))
            patch.setattr(released.Releases, "settle", lambda self: settle(self) if next(calls) < 2 else crash())
        with pytest.raises(Crash):
            stream(tmp_path / "run", *SHORT)
    assert deployed(tmp_path / "run") == before
    assert len(history(tmp_path / "run")) == (1 if moment == "before the history" else 2)
    stream(tmp_path / "run", *SHORT)
    assert same_run(tmp_path / "whole", tmp_path / "run") == []


def test_what_is_deployed_loads_without_this_package(run: Path, tmp_path: Path):
    import subprocess
    import sys

    [(image, _)] = digits(1)
    write(tmp_path / "one.png", image)
    words = [sys.executable, str(run / "deployed" / "load_student.py"), str(tmp_path / "one.png")]
    finished = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_the_deployed_model_is_measured_as_any_other(run: Path, distillctl, tmp_path: Path):
    finished = distillctl("evaluate", "checkpoint=run/deployed", "dataset=digits", "trainer.device=cpu", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")


def test_a_finished_stream_shows_its_table_again(run: Path, distillctl, tmp_path: Path):
    finished = distillctl("stream", "resume=run", cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert "student" in finished.out


def test_one_process_learns_a_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from distillctl.errors import ConfigError

    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="one process"):
        learn(configured("stream", tmp_path), tmp_path, None)
