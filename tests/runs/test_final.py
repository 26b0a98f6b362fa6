"""Which student a run is about: the better of before and after fine-tuning, by validation, wherever its folder is read."""

import json

import pytest
from processes import configured

from distillctl.config import TrainerConfig
from distillctl.models.locate import locate
from distillctl.models.shipping import read_record
from distillctl.runs import choose
from distillctl.runs.execute import execute
from distillctl.runs.plan import plan
from distillctl.runs.session import session
from distillctl.runs.steps import Choice

SMALL = ("dataset.subset=200", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "trainer.batch_size=32")
HARM = ("finetune.epochs=1", "finetune.lr_scale=20")  # a rate at which a net forgets what it knew
BEFORE = {"model": "distilled", "val_n": 500, "val_top1": 0.471, "val_nll": 1.0}
WORSE = {"model": "fine-tuned", "val_n": 500, "val_top1": 0.414, "val_nll": 0.9}


def ranked(**trainer):
    return choose.ranking(TrainerConfig(**trainer), labelled=True, taught=False)


def test_a_student_that_fine_tuning_made_worse_ships_as_it_was():
    final, why = choose.final_of(ranked(), BEFORE, WORSE, "", "images")
    assert final == "distilled"
    assert "top-1 % 47.10 before and 41.40 after, on 500 validation images" in why
    assert "finetune.keep=always" in why


def test_the_better_one_is_that_by_which_epochs_are_chosen():
    assert choose.final_of(ranked(select_by="val_nll"), BEFORE, WORSE, "", "images")[0] == "fine-tuned"
    assert choose.final_of(ranked(), BEFORE, WORSE | {"val_top1": 0.471}, "", "images")[0] == "fine-tuned"  # then by NLL
    assert choose.final_of(ranked(), BEFORE, BEFORE | {"model": "fine-tuned"}, "", "images")[0] == "distilled"


def test_what_is_kept_says_so_and_what_it_costs():
    final, why = choose.final_of(ranked(), BEFORE, WORSE, "finetune.keep=always", "images")
    assert final == "fine-tuned"
    assert "as finetune.keep=always says" in why
    assert "no better" in why


@pytest.mark.parametrize(
    ("command", "words", "choice"),
    [
        ("train", [], Choice("distilled", "fine-tuned")),
        ("train", ["finetune.keep=always"], Choice("distilled", "fine-tuned", "finetune.keep=always")),
        ("train", ["trainer.select=last"], Choice("distilled", "fine-tuned", "trainer.select=last")),
        ("train", ["finetune.adversarial=true", "attack=pgd"], Choice("distilled", "fine-tuned", "finetune.adversarial=true")),
        ("train", ["finetune.epochs=0"], None),
        ("train", ["distill.epochs=0"], None),  # what is fine-tuned began with random weights
        ("train", ["distill.epochs=0", "student.checkpoint=run"], Choice("before", "fine-tuned")),
        ("train", ["teacher.checkpoint=run", "dataset.labels=false"], None),
        ("finetune", ["student.checkpoint=run"], Choice("before", "fine-tuned")),
        ("finetune", ["student.checkpoint=run", "student.new_head=true"], None),
    ],
)
def test_who_is_chosen_among(command, words, choice, tmp_path):
    assert plan(configured(command, tmp_path, *words)).choice == choice


def run(command, folder, *words):
    with session(configured(command, folder, *SMALL, *words), folder, lambda: False) as running:
        told = execute(running)
    return told, json.loads((folder / "run.json").read_text()), json.loads((folder / "summary.json").read_text())


def test_a_runs_folder_stands_for_the_better_student(tmp_path):
    words = ("teacher=resnet8", "student=resnet8", "pretrain.epochs=1", "distill.epochs=4", "baseline=false", *HARM)
    told, record, summary = run("train", tmp_path / "run", *words)
    rows = {row["model"]: row for row in summary["rows"]}
    assert rows["fine-tuned"]["val_top1"] <= rows["distilled"]["val_top1"]
    assert rows["fine-tuned"]["val_nll"] > rows["distilled"]["val_nll"]
    assert summary["final"] == record["plan"]["final"] == "distilled"
    assert told == rows["distilled"]["val_top1"]
    assert summary["objective"] == {"val_top1": told}
    for role in ("student", "model"):
        assert locate(str(tmp_path / "run"), role, role) == tmp_path / "run/distill/student.safetensors"

    given = f"student.checkpoint={tmp_path / 'run'}"
    _, record, summary = run("finetune", tmp_path / "tuned", given, *HARM)
    assert summary["final"] == record["plan"]["final"] == "before"
    file = locate(str(tmp_path / "tuned"), "model", "checkpoint")
    assert file == tmp_path / "tuned/before/student.safetensors"
    before = read_record(tmp_path / "run/distill/student.safetensors", "x")
    shipped = read_record(file, "x")
    assert shipped.parents.start == before.sha256
    assert (shipped.stage, shipped.metrics["val_top1"]) == ("before", pytest.approx(before.metrics["val_top1"]))
    _, record, summary = run("finetune", tmp_path / "kept", given, *HARM, "finetune.keep=always")
    assert summary["final"] == record["plan"]["final"] == "fine-tuned"
    assert locate(str(tmp_path / "kept"), "model", "checkpoint") == tmp_path / "kept/finetune/student.safetensors"
