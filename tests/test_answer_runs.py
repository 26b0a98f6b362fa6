"""Runs whose teacher is a file of answers: what they print and record, stopped and gone on with, on two ranks, and all that is refused beforehand."""

import contextlib
import csv
import hashlib
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Attempt, StopAfter, configured, metrics, run_on_two_ranks, same_stage, steps
from safetensors.torch import load_file

from distillctl.config import ImageSetConfig
from distillctl.data.image.sets import load
from distillctl.errors import Interrupted
from distillctl.runs.execute import execute
from distillctl.runs.session import session

QUICK = (
    "dataset=digits",
    "dataset.subset=300",
    "trainer.batch_size=32",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.threads=1",
)
ALIKE = ("dataset.views=1", "dataset.augment.crop=none", "dataset.augment.flip=0", "teacher.cache.dtype=fp32")
TRAIN, VAL, TEST = 270, 30, 359  # of 300 digits and the test split


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with answers to digits: to all with probabilities, to every other training sample with labels."""
    folder = tmp_path_factory.mktemp("answers")
    digits = load(ImageSetConfig(name="digits", subset=300))
    samples = {name: list(zip(part.index.tolist(), part.targets.tolist(), strict=True)) for name, part in parts(digits)}
    with (folder / "all.csv").open("w") as file:
        lines = csv.writer(file)
        lines.writerow(["row", *digits.classes])
        for row, label in sum(samples.values(), []):
            lines.writerow([row, *(0.82 if place == label else 0.02 for place in range(10))])
    with (folder / "half.jsonl").open("w") as file:
        for row, label in samples["train"][::2]:
            file.write(json.dumps({"row": row, "label": str(label), "confidence": 0.9}) + "\n")
    return folder


def parts(data):
    return (("train", data.train), ("val", data.val), ("test", data.test))


@pytest.fixture(scope="module")
def by(distillctl, place):
    """`by("half.jsonl", "run", "train", ...)`: a finished run by one of the files, and what it printed."""

    def run(file: str, folder: str, command: str, *words: str):
        told = ("teacher=answers", f"teacher.file={file}", "student=resnet8", "distill.epochs=2", *QUICK)
        finished = distillctl(command, *told, *words, f"hydra.run.dir={folder}", cwd=place)
        assert finished.code == 0, finished.err + finished.out
        return place / folder, finished.out

    return run


@pytest.fixture(scope="module")
def half(by):
    return by("half.jsonl", "half", "train", "finetune.epochs=1")


@pytest.fixture(scope="module")
def whole(by):
    return by("all.csv", "all", "distill")


def read(file: Path):
    return json.loads(file.read_text())


def rows(folder: Path) -> dict:
    return {row["model"]: row for row in read(folder / "summary.json")["rows"]}


def weights(stage: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(stage / "student.safetensors").items()}


# ------------------------------------------------------------------------------------------------ what a run says
def test_answers_to_some_are_announced_before_training_and_the_others_learn_from_labels(half):
    folder, printed = half
    line = f"answers 135 of {TRAIN} training images; the other 135 learn from their labels alone"
    assert printed.index(line) < printed.index("epoch   1/2")
    assert "teacher: its best class is the label of 100.00 % of these; by class: 0 100.00, 1 100.00" in printed
    assert "teacher: it knows no validation or test images; no row of the table is about it" in printed
    assert list(rows(folder)) == ["distilled", "fine-tuned", "alone"]
    assert rows(folder)["distilled"].get("agreement") is None


def test_what_was_answered_is_in_the_records(half, place):
    folder, _ = half
    mark = hashlib.sha256((place / "half.jsonl").read_bytes()).hexdigest()
    assert read(folder / "run.json")["answers"] == {
        "file": "half.jsonl", "sha256": mark, "answered": {"train": 135, "val": 0, "test": 0}, "left_out": 0,
    }  # fmt: skip
    assert read(folder / "distill/student.json")["parents"]["teacher"] == mark
    assert read(folder / "alone/student.json")["parents"]["teacher"] is None
    assert list(read(folder / "run.json")["stages"]) == ["distill", "finetune", "alone"]


def test_answers_to_all_that_is_measured_have_a_row_without_costs(whole):
    folder, printed = whole
    assert f"answers all {TRAIN} training images" in printed
    assert (
        f"teacher: it answers {VAL} of {VAL} validation images and {TEST} of {TEST} test images; a row of the table is about it" in printed
    )
    assert f"teacher: top-1 100.00% on {VAL} validation images" in printed
    found = rows(folder)
    assert list(found) == ["teacher", "distilled"]
    assert found["teacher"]["top1"] == 1.0
    assert found["teacher"]["architecture"] == "answers"
    assert "parameters" not in found["teacher"]
    assert found["distilled"]["agreement"] == pytest.approx(found["distilled"]["top1"])  # the answers are the labels
    assert found["distilled"]["parameters"] > 0


def test_the_best_epoch_may_be_chosen_by_agreement_with_answers_to_the_validation_split(by):
    folder, _ = by("all.csv", "chosen", "distill", "trainer.select_by=val_agreement")
    assert "val_agreement" in metrics(folder / "distill")[-1]


def test_a_student_learns_from_answers_alone_what_they_say(by):
    folder, _ = by("all.csv", "alone", "distill", "dataset.labels=false", "distill.epochs=25", "optimizer.lr=0.1")
    assert rows(folder)["distilled"]["top1"] > 0.6


def test_without_labels_who_is_not_answered_is_left_out(by):
    folder, printed = by("half.jsonl", "left", "train", "dataset.labels=false")
    assert f"answers 135 of {TRAIN} training images; the other 135 are left out, as they have no labels either" in printed
    assert "data: digits, 135 training" in printed
    assert read(folder / "run.json")["answers"]["left_out"] == 135
    assert metrics(folder / "distill")[-1]["step"] == 2 * 5  # of 135 samples, five batches an epoch
    assert "as the 30 validation images have no labels" in printed


def test_a_loss_without_labels_is_told_that_samples_without_an_answer_teach_nothing(by):
    _, printed = by("half.jsonl", "wasted", "distill", "loss.ce.weight=0")
    assert "the other 135 teach nothing, as no loss term reads labels: dataset.labels=false leaves them out" in printed


def test_assistants_and_generations_follow_a_teacher_of_answers(by):
    folder, _ = by("half.jsonl", "ladder", "distill", "assistants=[resnet8]", "generations=2", "distill.epochs=1")
    assert list(rows(folder)) == ["assistant 1", "generation 1", "distilled"]
    mark = read(folder / "run.json")["answers"]["sha256"]
    assert read(folder / "assistant-1/student.json")["parents"]["teacher"] == mark
    assert read(folder / "distill/student.json")["parents"]["teacher"] not in (None, mark)


def test_the_plan_says_who_teaches_and_what_is_known(distillctl, place, tmp_path):
    words = ("teacher=answers", f"teacher.file={place / 'half.jsonl'}", "student=resnet8", *QUICK)
    printed = distillctl("train", *words, "--plan", cwd=tmp_path)
    assert printed.code == 0, printed.err
    assert "answers in" in printed.out
    assert f"answers 135 of {TRAIN} training images" in printed.out
    assert "then measured on the validation and the test split: distilled" in printed.out
    assert not list(tmp_path.iterdir())


def test_jobs_of_a_sweep_share_a_file(distillctl, place):
    words = ("teacher=answers", "teacher.file=half.jsonl", "student=resnet8", "distill.epochs=1", *QUICK, "hydra.sweep.dir=sweep")
    finished = distillctl("distill", "-m", *words, "loss.kd.temperature=1,8", cwd=place)
    assert finished.code == 0, finished.err
    jobs = read(place / "sweep/sweep.json")["jobs"]
    assert len(jobs) == 2
    assert finished.out.count("answers 135 of") == 2
    one, other = (weights(place / f"sweep/{number}/distill") for number in range(2))
    assert one != other


# ------------------------------------------------------------------------------------------------ kept answers
@pytest.fixture(scope="module")
def kept(distillctl, tiny_run, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """A folder with a student of kept answers, and the words that name its teacher and its views."""
    folder = tmp_path_factory.mktemp("kept")
    words = (f"teacher.checkpoint={tiny_run / 'pretrain'}", *QUICK, *ALIKE)
    for command, more in (
        ("cache", ("action=fill",)),
        ("distill", ("teacher.cache.mode=require", "student=resnet8", "distill.epochs=2", "hydra.run.dir=kept")),
    ):
        finished = distillctl(command, *words, *more, cwd=folder)
        assert finished.code == 0, finished.err
    return folder, words


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".jsonl"])
def test_exported_answers_give_the_student_of_the_kept_ones_byte_by_byte(suffix, kept, distillctl):
    folder, words = kept
    written = distillctl("cache", "action=export", f"to=written{suffix}", *words, cwd=folder)
    assert written.code == 0, written.err
    assert f"written{suffix}: {TRAIN} answers of resnet8 by row, view 0, as logits" in written.out
    told = (
        "teacher=answers",
        f"teacher.file=written{suffix}",
        "student=resnet8",
        "distill.epochs=2",
        *words[1:],
        f"hydra.run.dir=by{suffix}",
    )
    finished = distillctl("distill", *told, cwd=folder)
    assert finished.code == 0, finished.err
    assert weights(folder / f"by{suffix}/distill") == weights(folder / "kept/distill")


def test_the_mean_over_views_is_that_of_probabilities(tiny_run, distillctl, tmp_path):
    words = (f"teacher.checkpoint={tiny_run / 'pretrain'}", *QUICK, "dataset.views=2", "teacher.cache.dtype=fp32")
    for more in (
        ("action=fill",),
        ("action=export", "to=both.npz"),
        *(("action=export", f"to={view}.npz", f"view={view}") for view in (0, 1)),
    ):
        finished = distillctl("cache", *words, *more, cwd=tmp_path)
        assert finished.code == 0, finished.err
    both, first, second = (torch.from_numpy(np.load(tmp_path / f"{name}.npz")["logits"]).softmax(1) for name in ("both", "0", "1"))
    assert not torch.allclose(first, second, atol=1e-3)
    torch.testing.assert_close(both, (first + second) / 2, rtol=1e-5, atol=1e-6)


EXPORTS = [
    ("", 2, "to is not set: pass to=<file>, as in to=answers.npz"),
    ("to=out.txt", 2, "to=out.txt: answers are written as .csv, .tsv, .jsonl, .parquet, .npz; end it in one of these"),
    ("to=nowhere/out.npz", 2, "to=nowhere/out.npz: there is no folder nowhere; make it first"),
    ("to=there.npz", 2, "to=there.npz: is there already; name another file, or remove it"),
    ("to=out.npz view=1", 2, "view=1: of 1 view the last is 0; lower it, or raise dataset.views"),
    ("to=out.npz seed=3", 3, f"lacks {TRAIN} of {TRAIN} answers; fill it with distillctl cache action=fill and these words"),
    ("to=out.npz dataset.augment.mixup=0.2", 2, "action=export: the kept answers are about samples that were mixed"),
    ("action=fill to=out.npz", 2, "to=out.npz works with action=export only, and action=fill"),
]


@pytest.mark.parametrize(("words", "code", "line"), EXPORTS, ids=[case[0] or "nothing" for case in EXPORTS])
def test_an_export_that_cannot_be_is_one_line(words, code, line, kept, distillctl):
    folder, named = kept
    (folder / "there.npz").touch()
    given = ("dataset.augment.crop=pad",) if "seed" in words else ()
    finished = distillctl("cache", "action=export", *named, *given, *words.split(), cwd=folder)
    assert finished.code == code, finished.out + finished.err
    said = finished.err.strip().splitlines()
    assert len(said) == 1, finished.err
    assert line in said[0]
    assert not (folder / "out.npz").exists()


# ------------------------------------------------------------------------------------------------ stopped, and on two ranks
LONG = ("teacher=answers", "student=resnet8", "distill.epochs=3", *QUICK, "trainer.accumulate=2", "trainer.save_every_s=0.001")


@pytest.mark.parametrize("asked", [2, 9, 17])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(asked, place, tmp_path, monkeypatch):
    monkeypatch.setattr("distillctl.runs.execute.conclude", lambda session, plan, made: 0.0)
    words = (*LONG, f"teacher.file={place / 'half.jsonl'}")
    with session(configured("distill", tmp_path / "whole", *words), tmp_path / "whole", StopAfter(10**9)) as running:
        execute(running)
    folder = tmp_path / "stopped"
    with contextlib.suppress(Interrupted), session(configured("distill", folder, *words), folder, StopAfter(asked)) as running:
        execute(running)
    assert 0 < steps(folder / "distill") < 27
    with session(configured("distill", folder, *words), folder, StopAfter(10**9)) as running:
        execute(running)
    assert same_stage(tmp_path / "whole/distill", folder / "distill") == []


@pytest.mark.usefixtures("logs")
def test_a_killed_run_goes_on_to_the_same_bits_and_refuses_answers_that_changed(place, tmp_path):
    file, words = tmp_path / "half.jsonl", [*LONG, "distill.epochs=30"]
    file.write_bytes((place / "half.jsonl").read_bytes())
    whole = Attempt("distill", *words, f"teacher.file={file}", f"hydra.run.dir={tmp_path / 'whole'}")
    assert whole.wait() == 0, whole.output
    attempt = Attempt("distill", *words, f"teacher.file={file}", f"hydra.run.dir={tmp_path / 'run'}")
    attempt.until(lambda: steps(tmp_path / "run/distill") > 3)
    attempt.send(signal.SIGKILL)
    assert attempt.wait() == -signal.SIGKILL, attempt.output

    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    refused = Attempt("distill", f"resume={tmp_path / 'run'}")
    assert refused.wait() == 3, refused.output
    assert refused.problems == [
        f"error: teacher.file={file}: the file is not what it was when this run started; put it back, or start a new run"
    ]
    file.write_text("".join(lines))
    again = Attempt("distill", f"resume={tmp_path / 'run'}")
    assert again.wait() == 0, again.output
    assert same_stage(tmp_path / "whole/distill", tmp_path / "run/distill") == []


@pytest.mark.usefixtures("logs")
def test_two_ranks_take_the_steps_of_one(place, tmp_path):
    words = ("teacher=answers", f"teacher.file={place / 'half.jsonl'}", "student=resnet8", "distill.epochs=2", *QUICK)
    words = (*words, "optimizer.lr=0.0005", "trainer.log_every=1", "loss=[kd,ctkd]")
    one = Attempt("distill", *words, f"hydra.run.dir={tmp_path / 'one'}")
    assert one.wait() == 0, one.output
    for attempt in run_on_two_ranks("distill", *words, f"hydra.run.dir={tmp_path / 'two'}"):
        assert attempt.code == 0, attempt.output
    ours, theirs = (metrics(tmp_path / name / "distill") for name in ("one", "two"))
    assert len(ours) == len(theirs) > 10
    for mine, other in zip(ours, theirs, strict=True):
        if mine["kind"] == "step":
            for part in ("ce", "kd", "ctkd"):
                assert other[part] == pytest.approx(mine[part], abs=1e-4)


# ------------------------------------------------------------------------------------------------ folders of images
@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Digits as files in folders by class, those without labels beside, and what an annotator says of both."""
    place, digits = tmp_path_factory.mktemp("folder"), load(ImageSetConfig(name="digits")).train
    lines = {"labelled": ["path,label"], "bare": ["path,label"]}
    for number in range(160):
        label = int(digits.targets[number])
        image = Image.fromarray(digits.inputs[number].permute(1, 2, 0).numpy())
        for name, at in (("labelled", f"train/{label}/{number:04}.png"), ("bare", f"{number:04}.png")):
            file = place / name / at
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            lines[name].append(f"{at},{label}")
    for name, told in lines.items():
        (place / f"{name}.csv").write_text("\n".join(told))
    return place


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_files_are_answered_by_their_paths_wherever_they_are_held(in_memory, folder, distillctl):
    words = (
        "teacher=answers",
        "teacher.file=labelled.csv",
        "dataset=image_folder",
        "dataset.root=labelled",
        f"dataset.in_memory={in_memory}",
    )
    finished = distillctl(
        "distill", *words, "student=resnet8", "distill.epochs=1", *QUICK[2:], "dataset.workers=0", f"hydra.run.dir={in_memory}", cwd=folder
    )
    assert finished.code == 0, finished.err
    assert "answers all " in finished.out
    assert "label of 100.00 % of these" in finished.out
    assert list(rows(folder / in_memory)) == ["teacher", "distilled"]


def test_an_annotator_names_the_classes_of_images_that_have_none(folder, distillctl):
    words = ("teacher=answers", "teacher.file=bare.csv", "dataset=image_folder", "dataset.root=bare", "dataset.labels=false")
    finished = distillctl("distill", *words, "student=resnet8", "distill.epochs=1", *QUICK[2:], "hydra.run.dir=bare-run", cwd=folder)
    assert finished.code == 0, finished.err
    assert read(folder / "bare-run/distill/student.json")["classes"] == list("0123456789")


# ------------------------------------------------------------------------------------------------ refused
OF = "teacher=answers teacher.file=half.jsonl"
REFUSED = [
    ("distill", "teacher=answers", 2, "teacher.file is not set: pass teacher.file=<answers.csv>"),
    ("distill", "teacher=answers teacher.file=answers.xls", 2, "teacher.file=answers.xls: answers are read from .csv, .tsv, .jsonl, .parquet, .npz, and this is .xls"),
    ("distill", "teacher=answers teacher.file=none.csv", 3, "teacher.file=none.csv: no such file"),
    ("distill", f"{OF} teacher.checkpoint=run", 2, "teacher.checkpoint=run is about a net, and teacher=answers has none"),
    ("distill", f"{OF} teacher.pretrained=true", 2, "teacher.pretrained=true is about a net"),
    ("distill", f"{OF} +teacher.args.depth=2", 2, "teacher.args={'depth': 2} is about a net"),
    ("distill", f"{OF} teacher.combine=mean_logit", 2, "teacher.combine belongs to teacher=ensemble, and teacher=answers"),
    ("distill", f"{OF} teacher.cache.mode=require", 2, "teacher.cache.mode=require: the answers of teacher=answers are kept already"),
    ("distill", f"{OF} teacher.confidence=0", 2, "teacher.confidence=0.0 must be > 0"),
    ("distill", f"{OF} teacher.answers=odds", 2, "teacher.answers=odds: must be one of auto, logits, probabilities"),
    ("distill", f"{OF} loss=at", 2, "teacher.file=half.jsonl: answers are logits alone, and stage1, stage2, stage3 of the teacher is read; take a loss on logits, as loss=kd"),
    ("distill", f"{OF} method=critic", 2, "answers are logits alone, and pooled of the teacher is read"),
    ("distill", f"{OF} method=data_free loss=funmatch", 2, "DataFree asks its teacher about other samples, or looks inside it; take method=distill"),
    ("distill", f"{OF} method=simkd", 2, "teacher.file=half.jsonl: "),
    ("distill", f"{OF} dataset.augment.mixup=0.2", 2, "its answers are about images as they are stored, and here they are mixed; set dataset.augment.mixup=0"),
    ("distill", f"{OF} dataset.augment.cutmix=1", 2, "here they are mixed"),
    ("distill", f"{OF} trainer.select_by=val_kl", 2, "trainer.select_by=val_kl compares with the teacher, and teacher.file=half.jsonl answers 0 of 30 validation images; take trainer.select_by=val_top1"),
    ("distill", f"{OF} objective=val_agreement", 2, "objective=val_agreement compares with the teacher"),
    ("distill", "teacher=resnet20 teacher.answers=logits teacher.pretrained=true", 2, "teacher.answers=logits is about teacher=answers, and teacher=resnet20; leave it out"),
    ("distill", "teacher=ensemble teacher.members.a=answers", 2, "teacher.members.a=answers: answers are no model; they teach alone"),
    ("distill", f"{OF} student=answers", 2, "student=answers: answers are no model; name one"),
    ("distill", "teacher=onnx teacher.file=half.jsonl", 4, "teacher=answers reads answers"),
    ("pretrain", OF, 2, "teacher=answers: answers are no model that could be trained; distillctl distill learns from them"),
    ("lifelong", OF, 2, "teacher=answers: a sequence of tasks numbers its classes anew"),
    ("stream", OF, 2, "teacher=answers: a stream's samples are new"),
    ("evaluate", f"checkpoint=half {OF}", 2, "teacher=answers: evaluate asks models"),
    ("cache", f"action=fill dataset.views=1 {OF}", 2, "action=fill: teacher=answers is a file already, and nobody is asked"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "code", "line"), REFUSED, ids=[f"{case[0]} {case[1]}" for case in REFUSED])
def test_what_cannot_be_is_one_line_before_anything_is_trained(command, words, code, line, half, place, distillctl):
    shutil.rmtree(place / "refused", ignore_errors=True)
    own = () if command in ("evaluate", "cache", "pretrain") or "student=" in words else ("student=resnet8",)
    subset = () if command == "evaluate" else QUICK[1:3]
    finished = distillctl(command, "dataset=digits", *own, *subset, *words.split(), "hydra.run.dir=refused", cwd=place)
    assert finished.code == code, finished.err + finished.out
    said = finished.err.strip().splitlines()
    assert len(said) == 1, finished.err
    assert line in said[0]
    assert "epoch" not in finished.out


def test_answers_are_an_option_of_a_teacher_alone():
    from distillctl.compose.sources import ModelNames

    source = ModelNames("test", "models://")
    assert [role for role in ("teacher", "student", "model") if "answers" in source.list(role, None)] == ["teacher"]
