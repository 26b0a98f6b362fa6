"""A command is about the data that its words mean: those it names, the folder it names, or what its checkpoint learned from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from distillctl import compose
from distillctl.errors import ConfigError

USAGE, DATA, CHECKPOINT = 2, 3, 4


def photos(root: Path, parts: str = ".", classes: str = "ant bee", count: int = 12) -> Path:
    draw = np.random.default_rng(0)
    for part in parts.split():
        for name in classes.split():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / part / name / f"{number:02}.png")
    return root


# --------------------------------------------------------------------------------------------- what words mean
@pytest.mark.parametrize(
    ("command", "words", "chosen"),
    [
        ("train", "", []),
        ("train", "dataset.root=photos", ["dataset=image_folder"]),
        ("train", "+dataset.root=photos dataset.shots=3", ["dataset=image_folder"]),
        ("train", "dataset.root=null", []),
        ("train", "dataset=cifar10 dataset.root=photos", []),
        ("train", "dataset.name=cifar10 dataset.root=photos", ["dataset=cifar10"]),
        ("train", "recipe=cifar10_folder_small dataset.root=photos", []),
        ("train", "recipe=cifar10_temperature teacher.checkpoint=run", []),
        ("distill", "recipe=methods_digits teacher.checkpoint=run", ["dataset=recorded"]),
        ("distill", "teacher.checkpoint=run", ["dataset=recorded"]),
        ("distill", "teacher.checkpoint=run dataset.root=photos", ["dataset=image_folder"]),
        ("distill", "teacher=ensemble ++teacher.members.a.checkpoint=run", ["dataset=recorded"]),
        ("train", "teacher.checkpoint=run student.checkpoint=x student.new_head=true", ["dataset=recorded"]),
        ("pretrain", "teacher.checkpoint=run", ["dataset=recorded"]),
        ("finetune", "student.checkpoint=a,b", ["dataset=recorded"]),
        ("cache", "teacher.checkpoint=run action=plan", ["dataset=recorded"]),
        ("evaluate", "checkpoint=run dataset.root=photos", []),
        ("predict", "checkpoint=run inputs=[photos]", []),
    ],
)
def test_words_that_name_no_data_set_mean_one(command, words, chosen):
    assert compose.with_data(command, words.split()) == [*chosen, *words.split()]


def test_a_recipe_of_ones_own_means_what_its_keys_say(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\ndataset:\n  root: photos\n")
    assert compose.with_data("train", ["recipe=mine"], [tmp_path]) == ["dataset=image_folder", "recipe=mine"]
    assert compose.with_data("train", ["recipe=mine", "dataset=mnist"], [tmp_path]) == ["recipe=mine", "dataset=mnist"]


def test_a_new_head_is_for_data_that_have_to_be_named():
    with pytest.raises(ConfigError, match=r"student.new_head=true: .*pass dataset=<name>, or dataset.root="):
        compose.with_data("finetune", ["student.checkpoint=run", "student.new_head=true"])


def test_a_file_of_texts_means_texts_and_what_they_have_by_default(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n")
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    (tmp_path / "photos" / "labels.csv").write_text("file,label\n")
    usual = ["teacher=bert_mini", "student=bilstm", "optimizer=adamw_text", "schedule=linear", "trainer.clip_norm=1"]
    for root in (tmp_path / "t.csv", tmp_path):
        chosen = compose.with_data("train", [f"dataset.root={root}"])
        assert "dataset=image_folder" in chosen if root == tmp_path else chosen == [*usual, "dataset=text", f"dataset.root={root}"]
    assert compose.with_data("train", [f"dataset.root={tmp_path / 'photos'}"])[0] == "dataset=image_folder"
    assert compose.with_data("train", ["dataset=docstrings", "student=bag"])[:2] == ["teacher=bert_mini", "optimizer=adamw_text"]


@pytest.mark.parametrize("command", ["distill", "finetune", "compress", "lifelong", "evaluate"])
def test_a_teacher_or_student_that_nobody_names_is_none_on_texts_either(command):
    chosen = compose.with_data(command, ["dataset=text", "dataset.root=t.csv"])
    assert not [word for word in chosen if word.startswith("teacher=")]
    assert ("student=bilstm" in chosen) == (command in ("distill", "lifelong"))


# --------------------------------------------------------------------------------------------- what is then read
@pytest.fixture(scope="module")
def run(tmp_path_factory, distillctl) -> Path:
    """A finished `pretrain` on a folder of two classes, named by dataset.root alone."""
    place = tmp_path_factory.mktemp("photos")
    photos(place / "photos")
    words = "teacher=resnet8 pretrain.epochs=1 trainer.batch_size=4 trainer.device=cpu trainer.threads=1 dataset.root=photos dataset.val_fraction=0.2"
    done = distillctl("pretrain", *words.split(), "hydra.run.dir=run", cwd=place)
    assert done.code == 0, done.err
    assert json.loads((place / "run/pretrain/teacher.json").read_text())["dataset"]["name"] == "image_folder"
    return place / "run"


def test_evaluate_reads_the_folder_that_its_keys_name(run, distillctl, tmp_path):
    assert "image_folder test, 5 images" in distillctl("evaluate", f"checkpoint={run}", cwd=tmp_path).out
    missing = distillctl("evaluate", f"checkpoint={run}", "dataset.root=nowhere", cwd=tmp_path)
    assert (missing.code, missing.err) == (DATA, "error: dataset.root=nowhere: no such folder\n")
    changed = distillctl("evaluate", f"checkpoint={run}", "split=val", "dataset.val_fraction=0.5", cwd=tmp_path)
    assert "image_folder val, 10 images" in changed.out


def test_another_place_of_an_official_set_is_told_from_a_folder_of_ones_own(tiny_run, distillctl, tmp_path):
    photos(tmp_path / "photos", classes="0 1 2 3 4 5 6 7 8 9", count=5)
    found = distillctl("evaluate", f"checkpoint={tiny_run}", "dataset.root=photos", cwd=tmp_path)
    assert found.code == 0, found.err
    assert "image_folder" in found.out
    assert "digits" not in found.out


@pytest.mark.parametrize("command", ["finetune", "distill"])
def test_a_checkpoint_brings_its_data(command, run, distillctl, tmp_path):
    role = "student" if command == "finetune" else "teacher"
    words = (f"{role}.checkpoint={run}/pretrain", "trainer.batch_size=4", f"{command}.epochs=1", "trainer.device=cpu", "trainer.threads=1")
    done = distillctl(command, *words, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    learned = json.loads((tmp_path / f"out/{command}/student.json").read_text())["dataset"]
    assert (learned["root"], learned["val_fraction"]) == (str(run.parent / "photos"), 0.2)
    again = distillctl(command, f"resume={tmp_path}/out", cwd=tmp_path)
    assert again.code == 0, again.err


def test_keys_stand_in_place_of_what_is_recorded(run, distillctl, tmp_path):
    words = (f"student.checkpoint={run}/pretrain", "dataset=recorded", "dataset.augment.flip=0.25", "trainer.batch_size=4", "--plan")
    assert distillctl("finetune", *words, cwd=tmp_path).code == 0
    refused = distillctl("finetune", *words, "dataset.augment.flip=2", cwd=tmp_path)
    assert (refused.code, "dataset.augment.flip=2" in refused.err) == (USAGE, True)


NAMELESS = "no checkpoint with a record says which data set that is; pass dataset=<name>, or dataset.root=<folder of images>"


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_recorded_without_a_record_is_one_line(command, distillctl, tmp_path):
    refused = distillctl(command, "dataset=recorded", cwd=tmp_path)
    assert (refused.code, refused.err) == (USAGE, f"error: dataset=recorded: {NAMELESS}\n")


@pytest.mark.parametrize("words", ["train teacher.checkpoint=t.safetensors", "evaluate model=resnet8 checkpoint=t.safetensors"])
def test_weights_without_a_record_need_their_data_named(words, tiny_run, distillctl, tmp_path):
    plain = load_file(tiny_run / "pretrain/teacher.safetensors")
    save_file(plain, tmp_path / "t.safetensors")
    command, *others = words.split()
    role = ["teacher=resnet8"] if command == "train" else []
    refused = distillctl(command, *role, *others, cwd=tmp_path)
    assert (refused.code, NAMELESS in refused.err) == (USAGE, True)


@pytest.mark.parametrize("more", [(), ("dataset=recorded",)])
def test_weights_without_a_record_are_measured_on_the_folder_that_is_named(more, tiny_run, distillctl, tmp_path):
    shutil.copy(tiny_run / "pretrain/teacher.safetensors", tmp_path / "alone.safetensors")
    photos(tmp_path / "photos", classes="0 1 2 3 4 5 6 7 8 9", count=2)
    done = distillctl("evaluate", "checkpoint=alone.safetensors", "dataset.root=photos", *more, cwd=tmp_path)
    assert (done.code, "image_folder all, 20 images" in done.out) == (0, True), done.err


def test_the_digits_have_no_folder(distillctl, tmp_path):
    refused = distillctl("train", "dataset=digits", "dataset.root=photos", cwd=tmp_path)
    assert (refused.code, "dataset.root=photos: the digits lie in no folder" in refused.err) == (USAGE, True)


def test_no_advice_leads_from_one_published_set_to_another(run, tiny_run, distillctl, tmp_path):
    """Classes of digits are no other words for a folder's, whatever is set."""
    photos(tmp_path / "photos", classes="a b c d e f g h i j", count=4)
    refused = distillctl("finetune", f"student.checkpoint={tiny_run}", "dataset.root=photos", "trainer.batch_size=4", cwd=tmp_path)
    assert refused.code == CHECKPOINT
    assert "dataset=recorded is the data that it learned from" in refused.err
    assert "ignore_class_names" not in refused.err


def test_a_record_of_anybodys_resolves_nothing(run, distillctl, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/pretrain/teacher.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"dataset": record["dataset"] | {"root": "${oc.env:HOME}"}}))
    refused = distillctl("evaluate", "checkpoint=run", cwd=tmp_path)
    assert (refused.code, "dataset holds an interpolation" in refused.err) == (CHECKPOINT, True)
    file.write_text(json.dumps(record | {"dataset": record["dataset"] | {"val_fraction": 7}}))
    refused = distillctl("evaluate", "checkpoint=run", cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (CHECKPOINT, 1)
    assert "checkpoint=run: the recorded data set cannot be used (val_fraction=7.0 must be <= 0.5); pass dataset=<name>" in refused.err
