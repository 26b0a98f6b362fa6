"""Which epoch ships: by what it is ranked, and what cannot be the best."""

import json
import math
from pathlib import Path

import pytest
import torch
from processes import configured

from distillctl.config import TrainerConfig
from distillctl.data.split import Split
from distillctl.errors import ConfigError
from distillctl.metrics.metric import METRICS, by_key
from distillctl.runs import choose
from distillctl.runs.check import check_settings
from distillctl.runs.measure import validation

GOOD, BETTER = {"val_top1": 0.5, "val_nll": 1.0}, {"val_top1": 0.5, "val_nll": 0.9}


def ranked(**trainer):
    return choose.ranking(TrainerConfig(**trainer), labelled=True, taught=True)


def best(values: dict) -> dict:
    return {"epoch": 1, "metrics": values, "weights": {}}


def test_accuracy_decides_and_then_the_likelihood():
    by = ranked()
    assert by.keys == ("val_top1", "val_nll")
    assert choose.is_best(by, BETTER, best(GOOD))
    assert not choose.is_best(by, GOOD, best(BETTER))
    assert not choose.is_best(by, GOOD, best(GOOD))
    assert choose.is_best(by, {"val_top1": 0.51, "val_nll": 9.0}, best(GOOD))
    assert choose.is_best(by, GOOD, None)


@pytest.mark.parametrize(
    ("key", "up"),
    [("val_top1", True), ("val_macro_f1", True), ("val_nll", False), ("val_ece", False), ("val_agreement", True), ("val_kl", False)],
)
def test_what_is_named_decides_first_in_its_own_direction(key, up):
    by = ranked(select_by=key)
    assert by.keys[0] == key
    more, less = {**GOOD, key: 0.6}, {**GOOD, key: 0.4}
    assert choose.is_best(by, more if up else less, best(less if up else more))
    assert not choose.is_best(by, less if up else more, best(more if up else less))


@pytest.mark.parametrize("broken", [{"val_top1": 0.5, "val_nll": math.nan}, {"val_top1": math.nan, "val_nll": 0.1}])
def test_what_is_no_number_is_worse_than_any(broken):
    assert not choose.is_best(ranked(), broken, best(GOOD))
    assert choose.is_best(ranked(), GOOD, best(broken))


def test_without_labels_the_teacher_decides_and_without_both_the_last_epoch_ships():
    assert choose.ranking(TrainerConfig(), labelled=False, taught=True).keys == ("val_agreement", "val_kl")
    assert choose.ranking(TrainerConfig(), labelled=False, taught=False) is None
    assert choose.ranking(TrainerConfig(select="last"), labelled=True, taught=True) is None
    assert choose.is_best(None, GOOD, best(BETTER))


def test_patience_counts_from_the_best_epoch():
    assert choose.is_stale(5, best(GOOD), 4)
    assert not choose.is_stale(4, best(GOOD), 4)
    assert not choose.is_stale(99, best(GOOD), None)
    assert not choose.is_stale(99, None, 1)


def test_how_it_is_chosen_is_said_where_there_are_no_labels():
    bare = Split(torch.zeros(3, 2), torch.full((3,), -1), torch.arange(3))
    said = choose.in_words(choose.ranking(TrainerConfig(), False, True), TrainerConfig(), "distill", bare, "images")
    assert said == "distill: the best epoch is chosen by agreement with the teacher, as the 3 validation images have no labels"
    assert choose.in_words(ranked(), TrainerConfig(), "distill", Split(bare.inputs, torch.zeros(3).long(), bare.index), "images") == ""


def test_what_ranks_is_measured_and_no_more():
    logits, targets = torch.randn(20, 4), torch.randint(4, (20,))
    teacher = torch.randn(20, 4)
    assert list(validation(logits, targets, None, ranked())) == ["val_top1", "val_nll"]
    assert list(validation(logits, targets, teacher, ranked())) == ["val_top1", "val_nll", "val_agreement"]
    assert "val_ece" in validation(logits, targets, teacher, ranked(select_by="val_ece"))
    assert "val_kl" in validation(logits, targets, teacher, ranked(select_by="val_kl"))
    assert list(validation(logits, None, teacher, None)) == ["val_agreement", "val_kl"]


def test_every_metric_is_declared_once_and_those_that_rank_say_which_way():
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    assert by_key("val_nll") is by_key("nll")
    choices = next(entry for entry in TrainerConfig.__dataclass_fields__.values() if entry.name == "select_by").metadata["choices"]
    assert all(by_key(key).better in ("high", "low") for key in choices)


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        ("train", ["trainer.select_by=val_nll", "trainer.select=last"], "trainer.select=last ships the last"),
    ],
)
def test_what_cannot_be_ranked_by_is_refused_before_any_data(command, words, line):
    with pytest.raises(ConfigError, match=line.replace(".", r"\.")):
        check_settings(configured(command, Path(), *words))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trainer.select_by=val_kl"], "trainer.select_by=val_kl compares with a teacher, and pretrain has none"),
        (
            ["trainer.select_by=val_top1", "dataset.shots=20"],
            "trainer.select_by=val_top1 needs labels, and the validation images have none",
        ),
        (["trainer.select_by=val_ece", "dataset.shots=20"], "trainer.select_by=val_ece needs labels"),
    ],
)
def test_what_cannot_be_ranked_by_is_refused_before_the_first_step(words, line, distillctl, tiny, tmp_path):
    refused = distillctl("train", *tiny, *words, "hydra.run.dir=run", cwd=tmp_path)
    assert (refused.code, line in refused.err) == (2, True), refused.err
    assert not list((tmp_path / "run").glob("*/last.pt"))


def test_few_labels_and_a_teacher_are_ranked_by_the_teacher(distillctl, tiny, tiny_run, tmp_path):
    words = [word for word in tiny if not word.startswith(("teacher", "pretrain", "finetune"))]
    more = [f"teacher.checkpoint={tiny_run / 'pretrain'}", "dataset.shots=20", "trainer.select_by=val_kl", "hydra.run.dir=run"]
    finished = distillctl("distill", *words, *more, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "the best epoch is chosen by KL from the teacher" in finished.out


def test_a_run_ships_the_epoch_of_the_least_likelihood(distillctl, tiny, tmp_path):
    words = [*tiny, "pretrain.epochs=3", "optimizer.lr=0.3", "schedule=constant", "trainer.select_by=val_nll", "hydra.run.dir=run"]
    finished = distillctl("pretrain", *(word for word in words if not word.startswith(("student", "distill", "finetune"))), cwd=tmp_path)
    assert finished.code == 0, finished.err
    lines = [json.loads(line) for line in (tmp_path / "run/pretrain/metrics.jsonl").read_text().splitlines()]
    by_epoch = {line["epoch"]: line["val_nll"] for line in lines if line["kind"] == "epoch"}
    shipped = json.loads((tmp_path / "run/pretrain/teacher.json").read_text())
    assert shipped["epoch"] == min(by_epoch, key=by_epoch.get)
