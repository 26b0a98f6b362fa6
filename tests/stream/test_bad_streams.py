"""What a user can get wrong about a stream: one line with the value, the key and a way out, and an exit code that a script can rely on."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mistakes import CHECKPOINT, DATA, MACHINE, USAGE, Row, check_refused, each
from streams import FAST, dated, folder, table

STREAM = f"stream {' '.join(FAST)} stream.samples=40"
FILE, FOLDER = f"{STREAM} stream.path=in/stream.csv", f"{STREAM} stream.path=in"
WATCH = f"{FOLDER} stream.source=watch stream.idle_s=0.01 dataset.image_size=8"


def csv(text: str, name: str = "stream.csv") -> Callable[[Path], None]:
    def prepare(place: Path) -> None:
        table(place / "in", 12)
        (place / "in" / name).write_text(text)

    return prepare


def days(place: Path) -> None:
    dated(place / "in")


def also(*names: str) -> Callable[[Path], None]:
    def prepare(place: Path) -> None:
        days(place)
        for name in names:
            (place / "in" / name).mkdir(parents=True)

    return prepare


def loose(place: Path) -> None:
    days(place)
    shutil.copy(next((place / "in").glob("*/0/*.png")), place / "in" / "2026-01-02" / "loose.png")


def no_image(place: Path) -> None:
    table(place / "in", 12)
    (place / "in" / "0003.png").write_text("<html>no image</html>")


def watched(place: Path) -> None:
    folder(place / "in", 12)


def watched_loose(place: Path) -> None:
    watched(place)
    shutil.copy(place / "in" / "0" / "0000.png", place / "in" / "loose.png")


def empty(place: Path) -> None:
    (place / "in").mkdir()


HEAD = "path,label,time\n"
ROWS = [
    # a table
    Row("no table", FILE, DATA, ("stream.path=", "no such file or folder")),
    Row("no times", FILE, DATA, ("no column 'time' among path, label", "path,label,time"), csv("path,label\n0000.png,0\n")),
    Row("no paths", FILE, DATA, ("no column 'path'",), csv("file,label,time\n0000.png,0,1\n")),
    Row("nothing", FILE, DATA, ("no column 'path' among none",), csv("")),
    Row("no rows", FILE, DATA, ("no rows below its first line",), csv(HEAD)),
    Row("no number", FILE, DATA, ("row 2: time 'noon' is neither a number nor a date",), csv(HEAD + "0000.png,0,noon\n")),
    Row("nan", FILE, DATA, ("row 2: time 'nan' is neither",), csv(HEAD + "0000.png,0,nan\n")),
    Row("no time", FILE, DATA, ("row 3: time ''",), csv(HEAD + "0000.png,0,1\n0001.png,1,\n")),
    Row("a clock that goes back", FILE, DATA, ("row 3: the clock goes back, from 2 to 1.5",), csv(HEAD + "0000.png,0,2\n0001.png,1,1.5\n")),
    Row("a date that goes back", FILE, DATA, ("from 2026-01-02 to 2026-01-01; sort",), csv(HEAD + "a,0,2026-01-02\nb,1,2026-01-01\n")),
    Row(
        "times of two kinds",
        FILE,
        DATA,
        ("row 3: time 2026-01-01 and 5 before it are of two kinds",),
        csv(HEAD + "a,0,5\nb,1,2026-01-01\n"),
    ),
    Row(
        "times with and without a zone",
        FILE,
        DATA,
        ("are of two kinds",),
        csv(HEAD + "a,0,2026-01-01T00:00:00\nb,1,2026-01-02T00:00:00+00:00\n"),
    ),
    Row("the same twice", FILE, DATA, ("row 4 has 0000.png, as row 2 has",), csv(HEAD + "0000.png,0,1\n0001.png,1,1\n0000.png,0,2\n")),
    Row("no path in a row", FILE, DATA, ("row 2 has no path",), csv(HEAD + ",0,1\n")),
    Row("no label in a row", FILE, DATA, ("row 3 (0001.png) has no label",), csv(HEAD + "0000.png,0,1\n0001.png,,2\n")),
    Row("one class", FILE, USAGE, ("1 class is there by now", "stream.classes="), csv(HEAD + "0000.png,0,1\n0001.png,0,2\n")),
    Row(
        "a stranger",
        f"{FILE} stream.classes=[0,1]",
        DATA,
        ("is of class '2'", "stream.classes="),
        csv(HEAD + "0000.png,0,1\n0002.png,2,2\n"),
    ),
    Row(
        "a file that is not there", FILE, DATA, ("nowhere.png: no such file",), csv(HEAD + "0000.png,0,1\n0001.png,1,2\nnowhere.png,1,3\n")
    ),
    Row("a file that is no image", FILE, DATA, ("0003.png: HTML or XML text, not an image", "dataset.on_bad_image=skip"), no_image),
    Row("no text", FILE, DATA, ("not UTF-8 text",), lambda place: (csv("")(place), (place / "in/stream.csv").write_bytes(b"\xff\xfe\xff"))),
    Row("a class twice", f"{FILE} stream.classes=[0,1,1]", USAGE, ("a class is named twice",), csv(HEAD + "0000.png,0,1\n")),
    # folders
    Row("no folder", FOLDER, DATA, ("no such file or folder",)),
    Row("no dates", FOLDER, USAGE, ("2026-01-03/CLASS/image.png", "stream.source=watch"), watched),
    Row("an empty folder", FOLDER, USAGE, ("expected a folder for each date",), empty),
    Row("a folder without a date", FOLDER, DATA, ("the folder cats has no date for a name",), also("cats")),
    Row("a day that there is not", FOLDER, DATA, ("the folder 2026-02-30 has no date",), also("2026-02-30")),
    Row("a day twice", FOLDER, DATA, ("2026-01-01 and 20260101 are of the same time",), also("20260101")),
    Row("no image in any", FOLDER, DATA, ("no images",), lambda place: (place / "in" / "2026-01-01").mkdir(parents=True)),
    Row("an image in no class", FOLDER, DATA, ("2026-01-02/loose.png lies in no class folder",), loose),
    Row("a table that is a folder", f"{FOLDER} stream.source=csv", DATA, ("is a folder, and stream.source=csv takes a CSV",), days),
    Row("a folder that is a table", f"{FILE} stream.source=folders", DATA, ("is a file, and stream.source=folders",), csv(HEAD)),
    # a watched folder
    Row("no size", f"{FOLDER} stream.source=watch stream.idle_s=1", USAGE, ("dataset.image_size is not set",), watched),
    Row("nothing yet", WATCH, USAGE, ("no classes are there by now", "stream.classes=[cat,dog]"), empty),
    Row("a loose file", WATCH, DATA, ("loose.png lies in no class folder",), watched_loose),
    # what does not go together
    Row("a source without a path", f"{STREAM} stream.source=csv", USAGE, ("stream.path is not set",)),
    Row(
        "an unknown source", f"{STREAM} stream.source=camera", USAGE, ("stream.source=camera: must be one of dataset, folders, csv, watch",)
    ),
    Row("two streams", f"{STREAM} dataset=digits stream.path=in", USAGE, ("dataset=digits and stream.path=", "leave the first out"), days),
    Row("an order of a path", f"{FOLDER} stream.drift=none", USAGE, ("stream.drift=none orders a data set",), days),
    Row("classes of a set", f"{STREAM} stream.classes=[a,b]", USAGE, ("the data set has its classes",)),
    Row("no stretch", f"{STREAM} stream.shuffled=[9,3]", USAGE, ("stream.shuffled=[9, 3]: expected two positions",)),
    Row("a schedule", f"{STREAM} schedule=cosine", USAGE, ("take schedule=constant",)),
    Row("no batch size", f"{STREAM} trainer.batch_size=auto", USAGE, ("trainer.batch_size=auto",)),
    Row("processes", f"{STREAM} trainer.devices=2", USAGE, ("trainer.devices does not go with a stream",)),
    Row("minutes", f"{STREAM} trainer.max_minutes=1", USAGE, ("pass stream.samples=N",)),
    Row("mixed samples", f"{STREAM} dataset.augment.mixup=0.2", USAGE, ("dataset.augment.mixup does not go with a stream",)),
    Row("compiled", f"{STREAM} trainer.compile=true", USAGE, ("trainer.compile does not go with a stream",)),
    Row("balanced", f"{STREAM} dataset.balance=oversample", USAGE, ("memory.select=balanced",)),
    Row("an objective", f"{STREAM} objective=val_top1", USAGE, ("objective does not go with a stream",)),
    Row("another average", f"{STREAM} trainer.ema_decay=0.9", USAGE, ("stream.teacher=ema",)),
    Row("features", f"{STREAM} loss=fitnet", USAGE, ("it reads features", "take loss=kd")),
    Row("a weight by epochs", f"{STREAM} loss=consistency", USAGE, ("a stream has none; pass loss.consistency.weight=1",)),
    Row("no loss for a teacher", f"{STREAM} loss=ce", USAGE, ("no term of it reads a teacher", "stream.teacher=none")),
    # teachers
    Row("an untrained teacher", f"{STREAM} teacher=resnet20", USAGE, ("is neither trained nor pretrained", "stream.refresh=every")),
    Row(
        "a file that learns",
        f"{STREAM} teacher=onnx teacher.file=net.onnx stream.refresh=drift",
        USAGE,
        ("is an exported file, which learns nothing",),
        lambda place: (place / "net.onnx").write_bytes(b"no net"),
    ),
    Row("no teacher", f"{STREAM} stream.teacher=model", USAGE, ("no teacher is named",)),
    Row("two teachers", f"{STREAM} teacher=resnet20 stream.teacher=ema", USAGE, ("are two teachers",)),
    Row("every what", f"{STREAM} teacher=resnet20 stream.refresh=every", USAGE, ("pass stream.refresh_every=500",)),
    Row("every of never", f"{STREAM} stream.refresh_every=50", USAGE, ("stream.refresh_every=50 works with stream.refresh=every",)),
    Row("an average anew", f"{STREAM} stream.refresh=drift", USAGE, ("stream.teacher=ema follows the student",)),
    Row("a copy never", f"{STREAM} stream.teacher=student", USAGE, ("no copy is ever taken",)),
    Row("no labels", f"{STREAM} stream.teacher=none dataset.labels=false", USAGE, ("somebody has to teach",)),
    Row(
        "errors without labels",
        f"{STREAM} dataset.labels=false stream.detector=adwin stream.signal=error",
        USAGE,
        ("stream.signal=disagreement",),
    ),
    Row(
        "nobody to disagree",
        f"{STREAM} stream.teacher=none stream.detector=adwin stream.signal=disagreement",
        USAGE,
        ("no teacher to disagree",),
    ),
    Row("a signal for nothing", f"{STREAM} stream.signal=error", USAGE, ("pass stream.detector=adwin",)),
    Row("an unknown detector", f"{STREAM} stream.detector=ears", USAGE, ("must be one of adwin, page_hinkley",)),
    Row("an unknown row", f"{STREAM} stream.beside=[joint]", USAGE, ("joint must be alone",)),
    # the gate
    Row("an unknown gate", f"{STREAM} stream.gate=better", USAGE, ("stream.gate=better: must be one of difference, significant",)),
    Row(
        "a level of nothing",
        f"{STREAM} stream.alpha=0.1",
        USAGE,
        ("stream.alpha=0.1 works with stream.gate=significant, and it is difference",),
    ),
    Row("no level", f"{STREAM} stream.gate=significant stream.alpha=0", USAGE, ("stream.alpha=0.0 must be > 0",)),
    Row(
        "a tolerance beside a test",
        f"{STREAM} stream.gate=significant stream.tolerance=0.1",
        USAGE,
        ("stream.tolerance=0.1 works with stream.gate=difference, and it is significant",),
    ),
    Row("one version", f"{STREAM} stream.keep_versions=1", USAGE, ("stream.keep_versions=1 must be >= 2",)),
    # a run that is there
    Row("no run", "stream action=rollback", USAGE, ("folder is not set",)),
    Row("a run that is not there", "stream action=rollback folder=none", CHECKPOINT, ("folder=none: no such folder",)),
    Row("a folder of nothing", "stream action=history folder=in", CHECKPOINT, ("no run folder",), empty),
    Row("a version of a new run", f"{STREAM} version=2", USAGE, ("pass action=rollback",)),
    Row("no version", "stream action=rollback folder=run version=0", USAGE, ("version=0 must be >= 1",)),
]


@each(ROWS)
def test_a_mistake_is_one_line_with_a_way_out(row: Row, tmp_path: Path):
    if row.prepare:
        row.prepare(tmp_path)
    check_refused(row, tmp_path, f"{row.command} hydra.run.dir=out")


def test_without_river_a_line_says_how_to_get_it(distillctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "river", None)
    done = distillctl(*shlex.split(STREAM), "stream.detector=adwin", "hydra.run.dir=out", cwd=tmp_path)
    assert (done.code, done.err) == (MACHINE, "error: stream.detector needs river: pip install 'distillctl[stream]'\n")


# what lies in a run's folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from commands import call

    place = tmp_path_factory.mktemp("finished")
    done = call(*shlex.split(STREAM), "stream.release_every=20", "stream.tolerance=1", "hydra.run.dir=run", cwd=place)
    assert done.code == 0, done.err
    return place / "run"


def rewritten(run: Path, change: Callable[[list], Any]) -> None:
    file = run / "deployed" / "history.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content)))


def without(line: dict, name: str) -> dict:
    return {key: value for key, value in line.items() if key != name}


def damaged(run: Path) -> None:
    file = run / "versions" / "0001" / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def linked(run: Path) -> None:
    shutil.move(run / "deployed", run.parent / "elsewhere")
    (run / "deployed").symlink_to(run.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "word", "text"),
    [
        (lambda run: None, "version=9", "version=9: this run deployed 1, 2; take one of these"),
        (lambda run: None, "version=2", "version=2: it is deployed now"),
        (
            lambda run: rewritten(run, lambda lines: [*lines[:-1], lines[-1] | {"pruned": [1]}]),
            "version=1",
            "version=1: it was pruned, by stream.keep_versions; this run still has 2; take one of these",
        ),
        (
            lambda run: rewritten(run, lambda lines: [*lines[:-1], lines[-1] | {"pruned": ["../.."]}]),
            "version=1",
            "not the history of a stream (pruned has to be a whole number",
        ),
        (lambda run: rewritten(run, lambda lines: [line | {"pruned": 1} for line in lines]), "version=1", "pruned has to be a list"),
        (damaged, "version=1", "damaged (checksum mismatch); what is deployed stays as it is"),
        (lambda run: shutil.rmtree(run / "versions" / "0001"), "version=1", "what is deployed stays as it is"),
        (lambda run: (run / "deployed" / "history.json").write_text("what?"), "version=1", "not the history of a stream"),
        (lambda run: rewritten(run, lambda lines: {"a": 1}), "version=1", "not the history of a stream"),
        (lambda run: rewritten(run, lambda lines: [{"what": "released", "version": "../.."}]), "version=1", "not the history of a stream"),
        (lambda run: rewritten(run, lambda lines: [without(line, "accuracy") for line in lines]), "version=1", "accuracy is missing"),
        (
            lambda run: rewritten(run, lambda lines: [line | {"deployed": "x"} for line in lines]),
            "version=1",
            "deployed has to be a whole number",
        ),
        (lambda run: shutil.rmtree(run / "deployed"), "version=1", "nothing was deployed by this run yet"),
        (linked, "version=1", "a symbolic link"),
    ],
)
def test_a_rollback_that_cannot_be_leaves_all_as_it_is(finished: Path, tmp_path: Path, distillctl, spoil, word: str, text: str):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    spoil(run)
    before = (run / "deployed" / "student.safetensors").read_bytes() if (run / "deployed" / "student.safetensors").exists() else None
    done = distillctl("stream", "action=rollback", "folder=run", word, cwd=tmp_path)
    assert done.code in (USAGE, CHECKPOINT), done.err
    assert done.err.count("\n") == 1
    assert text in done.err
    assert before is None or (run / "deployed" / "student.safetensors").read_bytes() == before


def test_a_folder_of_another_command_has_no_models_to_put_back(tiny_run: Path, tmp_path: Path, distillctl):
    shutil.copytree(tiny_run, tmp_path / "run")
    done = distillctl("stream", "action=rollback", "folder=run", cwd=tmp_path)
    assert (done.code, done.err) == (CHECKPOINT, "error: folder=run: that was distillctl train; give the folder of a stream\n")


def test_each_job_of_a_sweep_is_checked_before_the_first(tmp_path: Path, distillctl):
    done = distillctl(*shlex.split(STREAM), "-m", "stream.teacher=none,model", "hydra.sweep.dir=out", cwd=tmp_path)
    assert done.code == USAGE
    assert "no teacher is named" in done.err
    assert "job 2 of 2; none was started" in done.err
