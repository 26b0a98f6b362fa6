"""The ladder of levels as a plan has it, and which of them a run does, from what was recorded."""

from dataclasses import replace

import pytest

from distillctl.config import BudgetConfig, CompressConfig, ExportStepConfig, PruneConfig, QuantizeConfig
from distillctl.runs.ladder import export_of, levels_of, quantize_of
from distillctl.runs.plan import plan
from distillctl.runs.search import left_out
from distillctl.runs.steps import Step


def config(prune: PruneConfig | None = None, quantize: QuantizeConfig | None = None, **budget: float) -> CompressConfig:
    found = CompressConfig(prune=prune or PruneConfig(), quantize=quantize or QuantizeConfig(), budget=BudgetConfig(**budget))
    found.distill.epochs = 2
    found.method = {"_target_": "distillctl.methods.distill.Distill"}
    found.loss = {"ce": {"_target_": "distillctl.losses.logits.CrossEntropy"}}
    return found


@pytest.mark.parametrize(
    ("given", "names", "targets"),
    [
        (config(size_mb=1.0), ["100%", "75%", "50%", "35%", "25%"], [None, 0.75, 0.5, 0.35, 0.25]),
        (config(macs=0.6), ["60%", "50%", "35%", "25%"], [0.582, 0.5, 0.35, 0.25]),
        (config(macs=0.1), ["10%"], [0.097]),
        (config(macs=1e6), ["100%", "75%", "50%", "35%", "25%"], [None, 0.75, 0.5, 0.35, 0.25]),
        (config(PruneConfig("taylor", target_macs=0.4), size_mb=1.0), ["100%", "40%"], [None, 0.4]),
        (config(PruneConfig("magnitude", target_macs=2e6), size_mb=1.0), ["100%", "2 M MACs"], [None, 2e6]),
        (config(PruneConfig("magnitude", ratio=0.4), size_mb=1.0), ["100%", "ratio 0.4"], [None, None]),
    ],
)
def test_levels_go_from_mild_to_strong(given, names, targets):
    levels = list(levels_of(given))
    assert [level.name for level in levels] == names
    assert [level.prune.target_macs if level.prune else None for level in levels] == pytest.approx(targets)


def test_channels_are_cut_by_magnitude_unless_another_way_is_named():
    assert {level.prune.name for level in levels_of(config(size_mb=1.0)) if level.prune} == {"magnitude"}
    assert {level.prune.name for level in levels_of(config(PruneConfig("bn_scale"), size_mb=1.0)) if level.prune} == {"bn_scale"}


@pytest.mark.parametrize(
    ("quantiser", "file", "found"),
    [
        ("none", "none", ("onnx", "static")),
        ("auto", "none", ("onnx", "static")),
        ("none", "torch_export", ("torch_export", "none")),
        ("openvino", "none", ("openvino", "openvino")),
        ("fp16", "none", ("onnx", "fp16")),
        ("qat", "onnx", ("onnx", "qat")),
    ],
)
def test_the_file_that_is_looked_for(quantiser, file, found):
    given = replace(config(quantize=QuantizeConfig(quantiser), size_mb=1.0), export=ExportStepConfig(file))
    assert (export_of(given).format, quantize_of(given).name) == found


def test_what_may_be_lost_is_what_the_budget_says_unless_quantising_says_more():
    assert quantize_of(config(size_mb=1.0, max_drop=0.03)).max_drop == 0.03
    assert quantize_of(config(quantize=QuantizeConfig(max_drop=0.002), size_mb=1.0, max_drop=0.03)).max_drop == 0.002
    assert quantize_of(config(size_mb=1.0)).min_agreement == 0.0


def test_a_plan_is_the_same_every_time_and_has_every_level():
    found = plan(config(size_mb=1.0))
    assert found == plan(config(size_mb=1.0))
    names = [step.name for step in found.steps]
    assert names[:6] == ["survey", "level-100", "level-75", "level-50", "level-35", "level-25"]
    assert names[6:9] == ["export-100", "quantize-100", "judge-100"]
    assert names[9:13] == ["train-again-75", "export-75", "quantize-75", "judge-75"]
    assert [row.name for row in found.rows][:3] == ["before", "fp32 100%", "int8 100%"]
    assert found.trials[-1].settings.last


def test_training_for_8_bits_is_a_step_of_each_level():
    names = [step.name for step in plan(config(quantize=QuantizeConfig("qat"), size_mb=1.0)).steps if isinstance(step, Step)]
    assert names[:3] == ["qat-100", "train-again-75", "qat-75"]


CAN = {"problem": "", "over": 0.0}


def cannot(over: float | None, why: str = "too large") -> dict:
    return {"problem": why, "over": over}


@pytest.mark.parametrize(
    ("records", "done"),
    [
        ({"level-100": CAN, "level-50": CAN, "judge-100": {"met": True}}, ["100%"]),
        ({"level-100": CAN, "level-50": CAN, "judge-100": {"met": False}}, ["100%", "50%"]),
        ({"level-100": cannot(0.3), "level-50": CAN}, ["50%"]),
        ({"level-100": cannot(0.3), "level-50": cannot(0.1)}, ["50%"]),  # none can: the nearest is made
        ({"level-100": cannot(0.1), "level-50": cannot(0.3)}, ["100%"]),
        ({"level-100": cannot(0.1), "level-50": cannot(None)}, ["100%"]),  # what cannot be cut is near nothing
        ({"level-100": CAN, "level-50": cannot(None), "judge-100": {"met": False}}, ["100%"]),
    ],
)
def test_which_levels_are_done(records, done):
    found = plan(config(PruneConfig("magnitude", target_macs=0.5), size_mb=1.0))
    reasons = {step.level: left_out(found, step, records.get) for step in found.steps if step.level}
    assert [level for level, why in reasons.items() if not why] == done


def test_why_a_level_is_left_out():
    found = plan(config(PruneConfig("magnitude", target_macs=0.5), size_mb=1.0))
    last = found.steps[-1]
    assert left_out(found, last, {"level-100": CAN, "level-50": CAN, "judge-100": {"met": True}}.get) == (
        "level 50%: not needed, level 100% meets the budget"
    )
    assert left_out(found, last, {"level-100": CAN, "level-50": cannot(0.1)}.get) == "level 50%: left out, too large"
    assert left_out(found, found.steps[0], {}.get) == ""
