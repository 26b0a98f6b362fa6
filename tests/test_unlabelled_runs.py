"""Distilling with few labels or none: which images, losses, stages and epochs are used, and what a user is told."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from processes import StopAfter, configured, metrics, same_stage

from distillctl.config import ImageSetConfig
from distillctl.data.image.sets import load
from distillctl.errors import Interrupted
from distillctl.losses.weighted import build_loss
from distillctl.metrics import quality
from distillctl.report.table import Results
from distillctl.runs import unlabelled
from distillctl.runs.execute import execute
from distillctl.runs.session import session
from distillctl.types import Batch, Output

LOSSES = sorted((Path(__file__).parents[1] / "conf" / "loss").glob("*.yaml"))
PLAIN = ("student=resnet8", "trainer.batch_size=32", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")
FOLDER = ("dataset=image_folder", "dataset.labels=false", "dataset.augment.pad=1", "dataset.augment.flip=0")


def write(folder: Path, first: int, last: int, by_class: bool = False) -> Path:
    """Digits as PNG files, in one folder or in folders named by class."""
    digits = load(ImageSetConfig(name="digits")).train
    for number in range(first, last):
        place = folder / str(int(digits.targets[number])) if by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.inputs[number].permute(1, 2, 0).numpy()).save(place / f"{number:04}.png")
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "flat", 0, 150)


@pytest.fixture(scope="module")
def overrides(tiny_run, flat):
    return ("teacher=resnet8", f"teacher.checkpoint={tiny_run}", *PLAIN, *FOLDER, f"dataset.root={flat}")


@pytest.fixture(scope="module")
def finished(distillctl, overrides, tmp_path_factory):
    """A finished run on a flat folder: where it lies and what it printed."""
    place = tmp_path_factory.mktemp("unlabelled")
    done = distillctl("train", *overrides, "distill.epochs=3", "hydra.run.dir=run", cwd=place)
    assert done.code == 0, done.err
    return place / "run", done.out


def read(file: Path):
    return json.loads(file.read_text())


# --- a flat folder


def test_a_student_of_a_flat_folder_ships_with_the_teachers_classes(finished):
    folder, _ = finished
    assert (folder / "distill" / "student.safetensors").is_file()
    assert read(folder / "distill" / "student.json")["classes"] == list("0123456789")


def test_what_is_left_out_is_said_once_each(finished):
    _, out = finished
    assert out.count("no labels: loss.ce is off") == 1
    assert out.count("finetune: skipped, it learns from labels (dataset.labels=false)") == 1
    assert out.count("alone: skipped, it learns from labels (dataset.labels=false)") == 1
    assert out.count("distill: the best epoch is chosen by agreement with the teacher, as the 12 validation images have no labels") == 1
    assert "agree " in out
    assert " val " not in out


def test_only_stages_without_labels_are_there(finished):
    folder, _ = finished
    assert list(read(folder / "run.json")["stages"]) == ["distill"]


def test_the_epoch_that_ships_agrees_most_with_the_teacher(finished):
    folder, _ = finished
    epochs = [line for line in metrics(folder / "distill") if line["kind"] == "epoch"]
    assert len(epochs) == 3
    assert all("val_top1" not in line and "val_nll" not in line for line in epochs)
    best = max(epochs, key=lambda line: (line["val_agreement"], -line["val_kl"]))
    record = read(folder / "distill" / "student.json")
    assert record["epoch"] == best["epoch"]
    assert record["metrics"] == {"val_agreement": best["val_agreement"], "val_kl": best["val_kl"]}


def test_the_table_shows_agreement_and_no_accuracy(finished):
    folder, out = finished
    summary = read(folder / "summary.json")
    teacher, student = summary["rows"]
    assert summary["top1"] is summary["gain_over_alone"] is teacher["top1"] is student["top1"] is None
    assert student["n"] == 30
    assert 0 <= student["agreement"] <= 1
    assert "image_folder held out, 30 images without labels" in out
    assert "NLL" not in out
    [line] = [line for line in out.splitlines() if line.strip().startswith("distilled")]
    assert line.split()[1:3] == ["-", f"{100 * student['agreement']:.2f}"]


def test_the_student_predicts(finished, distillctl, flat, tmp_path):
    folder, _ = finished
    done = distillctl(
        "predict", f"checkpoint={folder}", f"inputs=[{flat / '0003.png'}]", "format=jsonl", "trainer.device=cpu", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert json.loads(done.out.strip().splitlines()[-1])


def test_it_is_evaluated_by_agreement_alone(finished, distillctl, tiny_run, tmp_path):
    folder, _ = finished
    refused = distillctl("evaluate", f"checkpoint={folder}", "trainer.device=cpu", cwd=tmp_path)
    assert refused.code == 2
    assert refused.err.strip().splitlines() == [
        "error: split=test: these images have no labels; to measure agreement set teacher.checkpoint=<run folder>"
    ]
    compared = ("evaluate", f"checkpoint={folder}", f"teacher.checkpoint={tiny_run}", "trainer.device=cpu", "hydra.run.dir=out")
    done = distillctl(*compared, cwd=tmp_path)
    assert done.code == 0, done.err
    found = read(tmp_path / "out" / "evaluation.json")
    assert found["measured"]["top1"] is found["confusion"] is None
    assert found["measured"]["agreement"] == read(folder / "summary.json")["rows"][1]["agreement"]


def test_a_stopped_run_goes_on_to_the_same_bits(finished, overrides, tmp_path):
    whole, _ = finished
    for moments in (5, 10**9):
        config = configured("train", tmp_path, *overrides, "distill.epochs=3")
        ends = pytest.raises(Interrupted) if moments == 5 else contextlib.nullcontext()
        with ends, session(config, tmp_path, StopAfter(moments)) as running:
            execute(running)
    assert same_stage(whole / "distill", tmp_path / "distill") == []


def test_a_sweep_shows_agreement(distillctl, overrides, tmp_path):
    done = distillctl("distill", "-m", *overrides, "distill.epochs=1", "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "agreement % on the test split, mean ± std over seeds (n = 2)" in " ".join(done.out.split())
    [row] = read(tmp_path / "sweep" / "sweep.json")["rows"]
    assert set(row["models"]["distilled"]) == {"agreement", "val_agreement"}


# --- a labelled test split, and other sets


def test_a_labelled_test_folder_gives_accuracy(distillctl, overrides, tiny_run, flat, tmp_path):
    for file in flat.iterdir():
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / file.name).symlink_to(file)
    write(tmp_path / "set" / "test", 200, 230, by_class=True)
    done = distillctl("distill", *overrides, f"dataset.root={tmp_path / 'set'}", "distill.epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = read(tmp_path / "run" / "summary.json")["rows"]
    assert [row["n"] for row in rows] == [30, 30]
    assert all(0 <= row["top1"] <= 1 for row in rows)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_digits_without_labels_are_measured_by_labels(distillctl, tiny_run, tmp_path, mixing):
    digits = (f"teacher.checkpoint={tiny_run}", *PLAIN, "dataset.labels=false", "dataset.subset=200", f"dataset.augment.{mixing}=0.5")
    done = distillctl("distill", *digits, "loss=[kd,sp]", "distill.epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    teacher, student = read(tmp_path / "run" / "summary.json")["rows"]
    assert teacher["n"] == student["n"] == 359
    assert 0 <= student["top1"] <= 1
    steps = [line for line in metrics(tmp_path / "run" / "distill") if line["kind"] == "step"]
    assert steps
    assert all("ce" not in line and line["kd"] > 0 for line in steps)


def test_few_shots_are_chosen_by_agreement_and_alone_by_the_last_epoch(distillctl, tiny_run, tmp_path):
    few = (
        "teacher=resnet8",
        f"teacher.checkpoint={tiny_run}",
        *PLAIN,
        "dataset.shots=4",
        "trainer.batch_size=20",
        "distill.epochs=2",
        "finetune.epochs=0",
    )
    done = distillctl("train", *few, "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "distill: resnet8 by its teacher, 40 images" in done.out
    assert "distill: the best epoch is chosen by agreement with the teacher, as the 144 validation images have no labels" in done.out
    assert "alone: the last epoch ships, as the 144 validation images have no labels" in done.out
    stages = read(tmp_path / "run" / "run.json")["stages"]
    assert stages["alone"]["best_epoch"] == 2
    alone = [line for line in metrics(tmp_path / "run" / "alone") if line["kind"] == "epoch"]
    assert not any(key.startswith("val_") for line in alone for key in line)
    assert read(tmp_path / "run" / "summary.json")["gain_over_alone"] is not None


# --- what a user can get wrong


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        ("distill", "loss=dkd", ("loss.dkd needs labels", "kd,")),
        ("distill", "loss=[kd,crd]", ("loss.crd needs labels",)),
        ("distill", "loss=ce", ("loss=ce learns from labels alone", "kd,")),
        ("distill", "loss.kd.weight=0", ("loss=ce learns from labels alone",)),
        ("distill", "method=self", ("nothing to learn from", "method=distill")),
        ("distill", "method=ard", ("method.objective=ce", "method.objective=kl")),
        ("distill", "dataset.shots=3", ("dataset.shots=3", "dataset.labels=false")),
        ("train", "distill.epochs=0", ("distill.epochs=0",)),
        ("train", "teacher.checkpoint=null", ("teacher=resnet8 cannot be trained without labels", "teacher.checkpoint=")),
    ],
)
def test_what_needs_labels_is_refused_in_one_line(distillctl, overrides, tmp_path, command, given, words):
    done = distillctl(command, *overrides, *given.split(), cwd=tmp_path)
    assert done.code == 2, done.out
    [line] = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert "dataset.labels=false" in line
    assert all(word in line for word in words), line


def test_supervised_commands_are_refused(distillctl, tiny_run, flat, tmp_path):
    for command, own in (("pretrain", "teacher=resnet8"), ("finetune", f"student.checkpoint={tiny_run}")):
        done = distillctl(command, own, *FOLDER, f"dataset.root={flat}", cwd=tmp_path)
        assert done.code == 2
        [line] = done.err.strip().splitlines()
        assert f"dataset.labels=false: {command} learns from labels" in line
        assert "distillctl distill teacher.checkpoint=" in line


def test_shots_that_are_not_there_are_refused(distillctl, tiny_run, tmp_path):
    done = distillctl("distill", f"teacher.checkpoint={tiny_run}", *PLAIN, "dataset.shots=900", cwd=tmp_path)
    assert done.code == 3
    [line] = done.err.strip().splitlines()
    assert line.startswith("error: dataset.shots=900: class 0 has ")


def test_settings_of_labels_may_not_change_at_resume(distillctl, finished, tmp_path):
    folder, _ = finished
    done = distillctl("train", f"resume={folder}", "dataset.labels=true", cwd=tmp_path)
    assert done.code == 2
    assert "dataset.labels was False, now True" in done.err


# --- losses


def answers(count=6, classes=5):
    source = torch.Generator().manual_seed(0)
    layers = {"hidden_states": (3, 7, 4), "cls_states": (3, 4), "score_queries": (2, 7, 2, 2), "score_keys": (2, 7, 2, 2)}
    relations = dict.fromkeys(("queries.last", "keys.last", "values.last"), (7, 48))
    maps = {"stage1": (4, 8, 8), "stage2": (6, 4, 4), "stage3": (8, 2, 2), "stage4": (8, 2, 2), "last": (8, 2, 2), "pooled": (8,)}
    taps = maps | layers | relations
    return Output(
        torch.randn(count, classes, generator=source), {name: torch.randn(count, *shape, generator=source) for name, shape in taps.items()}
    )


@pytest.mark.parametrize("path", LOSSES, ids=lambda path: path.stem)
def test_terms_that_need_no_labels_never_look_at_them(path):
    """Targets that are not there at all: whoever touches them fails, and says that it needs them."""
    for name, node in yaml.safe_load(path.read_text()).items():
        node = {key: value for key, value in node.items() if not str(value).startswith("${")}
        loss = build_loss({name: node | {"weight": 1.0}})
        loss.prepare(answers(), answers(), samples=6)
        batch = Batch(torch.zeros(6, 3, 2, 2), None, torch.arange(6), 0)  # type: ignore[arg-type]
        if unlabelled.needs_labels(loss.terms[name]):
            with pytest.raises((AttributeError, TypeError)):
                loss(answers(), answers(), batch)
        else:
            assert loss(answers(), answers(), batch).loss.isfinite()


# --- measures and tables


def test_without_targets_only_closeness_is_measured():
    logits = torch.eye(6)
    assert quality.all_measures(logits, None) == {"top1": None}
    assert quality.all_measures(logits, None, logits) == {"top1": None, "agreement": 1.0, "kl": 0.0}


def test_a_table_without_accuracy_has_no_gain_and_no_standard_error():
    rows = [
        {"model": "teacher", "architecture": "big", "n": 9, "top1": None},
        {"model": "distilled", "architecture": "small", "n": 9, "top1": None, "agreement": 0.75},
    ]
    results = Results(rows, "distilled", ("distilled",))
    assert results.gain is None
    assert results.remarks() == ["these images have no labels: the student answers 75.0% of them as its teacher does"]
    table = results.table("title")
    assert [column.header for column in table.columns] == ["model", "top-1 %", "agree %"]
    assert list(table.columns[1].cells) == ["-", "-"]
