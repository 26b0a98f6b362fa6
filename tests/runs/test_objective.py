"""What a sweeper is told: figures of the validation split and costs, and none of the test split."""

import math

import pytest
from processes import configured

from distillctl.errors import ConfigError
from distillctl.metrics.metric import METRICS, VALIDATION, costs, on_validation
from distillctl.runs import objective
from distillctl.runs.plan import plan

ROW = {"top1": 0.9, "val_top1": 0.4, "val_nll": 1.5, "val_agreement": 0.6, "macs": 100, "nll": 0.1}


def test_by_default_the_validation_figure_is_told():
    assert objective.as_returned(objective.told(ROW, None)) == 0.4
    assert objective.told({"top1": None, "val_top1": None, "val_agreement": 0.6}, None) == {"val_agreement": 0.6}


def test_several_are_told_in_their_order():
    assert objective.as_returned(objective.told(ROW, ["macs", "val_nll"])) == (100.0, 1.5)
    assert objective.as_returned(objective.told(ROW, ["val_nll"])) == 1.5
    assert math.isnan(objective.told({"val_top1": 0.4}, ["macs"])["macs"])


def test_no_figure_of_the_test_split_can_be_named():
    assert all(name.startswith(VALIDATION) for name in on_validation())
    assert not {metric.key for metric in METRICS if metric.better} & set(costs())
    for metric in METRICS:
        if metric.better:
            for name in (metric.key, f"test_{metric.key}"):
                with pytest.raises(ConfigError, match=rf"objective={name}: a figure of the test split.*take objective=val_"):
                    objective.names_of(name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("val_topp1", "did you mean val_top1?"),
        ("robust_top1", "take objective=val_top1"),
        ("val_robust_top1", "take objective=val_top1"),
        ([], "expected a figure"),
        (3, "expected a figure"),
        ([["val_top1"]], "expected a figure"),
        ({"val_top1": 1}, "expected a figure"),
        (["val_top1", "val_top1"], "named twice"),
        (["val_top1", "top1"], "objective=top1: a figure of the test split"),
    ],
)
def test_what_cannot_be_told_is_one_line(given, said):
    with pytest.raises(ConfigError) as problem:
        objective.names_of(given)
    assert said in str(problem.value)
    assert len(problem.value.problems) == 1


def test_it_is_refused_before_any_training(tmp_path):
    from distillctl.runs.check import check_settings

    with pytest.raises(ConfigError, match="objective=top1"):
        check_settings(configured("train", tmp_path, "objective=top1"))


def test_what_the_data_and_the_plan_cannot_give_is_refused(tmp_path):
    alone = plan(configured("train", tmp_path, "method=self"))
    pretrain = plan(configured("pretrain", tmp_path))
    train = plan(configured("train", tmp_path))
    for todo in (alone, pretrain):
        with pytest.raises(ConfigError, match="here is none"):
            objective.check_measurable("val_agreement", todo, True, 10, "images")
    with pytest.raises(ConfigError, match="have none; take objective=val_agreement"):
        objective.check_measurable(["macs", "val_nll"], train, False, 10, "images")
    with pytest.raises(ConfigError, match="more than 5 classes"):
        objective.check_measurable("val_top5", train, True, 5, "images")
    objective.check_measurable(["val_agreement", "val_top5", "macs"], train, True, 10, "images")
