"""What is taken of several files, from made-up figures; and once from real ones."""

from dataclasses import replace

import pytest
import torch

from distillctl.compress.quantize.auto import SINGLE, Task, choose, make
from distillctl.compress.quantize.choice import decide
from distillctl.compress.quantize.figures import Candidate, Figures, Quality, measured, quality
from distillctl.config import check
from distillctl.config.deploy import QuantizeConfig, kept_names
from distillctl.errors import CheckpointError, ConfigError, DataError, MachineError

BOUNDS = {"max_drop": 0.01, "min_agreement": 0.99}


def figures(name, milliseconds, agreement=1.0, accuracy=0.9):
    rounds = milliseconds if isinstance(milliseconds, tuple) else (milliseconds,) * 9
    return Figures(name, 1000, Quality(500, accuracy, agreement, 0.0), rounds)


def test_the_fastest_that_answers_right_is_taken():
    made = [figures("fp32", 4.0), figures("static", 2.0, 0.995, 0.895), figures("dynamic", 3.0), figures("static_kept", 1.0, 0.98)]
    choice = decide(made, **BOUNDS)
    assert choice.name == "static"
    assert choice.reason == "int8 static: 2.0x faster, agreement 0.995 and accuracy 0.895 on 500 validation images"


def test_without_one_that_is_faster_and_right_it_stays_fp32_and_says_why():
    choice = decide([figures("fp32", 4.2), figures("static", 2.0, 0.82), figures("dynamic", 4.3)], **BOUNDS)
    assert choice.name == "fp32"
    assert choice.reason == (
        "fp32 stays: int8 static: 2.1x faster, but agreement 0.820 on 500 validation images is under quantize.min_agreement=0.99; "
        "int8 dynamic: no faster than fp32, 0.98 times its speed"
    )


def test_accuracy_may_fall_by_max_drop_and_no_more():
    assert decide([figures("fp32", 4.0), figures("static", 2.0, 0.995, 0.89)], **BOUNDS).name == "static"
    choice = decide([figures("fp32", 4.0), figures("static", 2.0, 0.995, 0.888)], **BOUNDS)
    assert choice.name == "fp32"
    assert "accuracy 0.888 on 500 validation images is 0.012 under fp32's, more than quantize.max_drop=0.01" in choice.reason


def test_speed_counts_only_where_rounds_agree():
    choice = decide([figures("fp32", 4.0), figures("static", (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.9, 3.9, 3.9))], **BOUNDS)
    assert choice.name == "fp32"
    assert "its speed is not stable here, 1.03 to 4.00 times fp32's" in choice.reason


def test_a_hair_faster_in_most_rounds_is_not_faster():
    assert decide([figures("fp32", 4.0), figures("static", (3.9, 3.9, 3.9, 3.9, 3.9, 3.9, 3.9, 4.1, 4.1))], **BOUNDS).name == "fp32"


def test_without_labels_agreement_decides():
    assert decide([figures("fp32", 4.0, accuracy=None), figures("static", 2.0, 0.995, None)], **BOUNDS).name == "static"


def test_fp32_alone_stays():
    assert decide([figures("fp32", 4.0)], **BOUNDS).reason == "fp32 stays: there is no other candidate"


def test_quality_by_hand():
    reference = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    found = quality(torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]), reference, torch.tensor([0, 1, 0, 0]))
    assert (found.n, found.accuracy, found.agreement) == (4, 0.5, 0.75)
    p = torch.tensor([2.0, 0.0]).softmax(0).double()
    assert found.kl == pytest.approx(((p[0] - p[1]) * (p[0] / p[1]).log() / 4).item())


@pytest.fixture
def task(resnet_file, digits, tmp_path):
    return Task(resnet_file, tmp_path, digits.train, digits.val[:200], digits.val_targets[:200], QuantizeConfig(samples=64))


def test_auto_measures_what_it_makes(task):
    choice, file = choose(task)
    named = {verdict.figures.name for verdict in choice.verdicts} | set(choice.left_out)
    assert named - {"static_kept"} == {"static", "dynamic", "fp16"}  # where no layer needs to be kept, that would be static again
    assert file.exists()
    assert file == task.source or file.parent == task.folder
    for verdict in choice.verdicts:
        assert verdict.figures.quality.n == 200
        assert verdict.figures.size == (task.folder / f"{verdict.figures.name}.onnx").stat().st_size
        assert verdict.figures.latency_ms.middle > 0
    assert choice.fp32.quality.agreement == 1


@pytest.mark.parametrize("name", SINGLE)
def test_one_quantiser_that_is_named_is_made_and_judged_by_its_answers(task, name):
    verdict, file, notes = make(replace(task, config=QuantizeConfig(name=name, samples=64, min_agreement=0.8, max_drop=0.2)))
    assert file == task.folder / f"{name}.onnx"
    assert verdict.problem is None or name == "dynamic" and "neither smaller" in verdict.problem  # it has one small matrix
    assert verdict.figures.size == file.stat().st_size < task.source.stat().st_size
    assert verdict.problem or verdict.sentence.endswith("on 200 validation images")
    assert any("quantize.keep_float=auto: all 4 layers in int8" in note for note in notes) == (name == "static")
    with pytest.raises(ConfigError, match="quantize=litert: no file of onnxruntime's is made so"):
        make(replace(task, config=QuantizeConfig(name="litert")))


def test_a_quantiser_that_answers_too_badly_says_so(task):
    verdict, file, _ = make(replace(task, config=QuantizeConfig(name="int4_weights", min_agreement=1.0)))
    assert "quantize.min_agreement=1.0" in verdict.problem
    assert file.exists()


def test_other_formats_join_by_their_makers(task):
    def made(given):
        def answer(batch):
            return 0 * measured_answer(batch)

        from distillctl.compress.quantize.session import answer_of

        measured_answer = answer_of(given.source)
        return Candidate("openvino", given.source, answer)

    def missing(given):
        raise MachineError("quantize=litert needs ai-edge-litert: pip install 'distillctl[litert]'")

    choice, _ = choose(replace(task, config=QuantizeConfig(samples=64, keep_float="none")), {"openvino": made, "litert": missing})
    (verdict,) = [verdict for verdict in choice.verdicts if verdict.figures.name == "openvino"]
    assert "agreement" in verdict.problem
    assert choice.left_out == {"litert": "quantize=litert needs ai-edge-litert: pip install 'distillctl[litert]'"}
    assert choice.name != "openvino"


def test_fewer_images_than_asked_are_a_note(task, digits):
    choice, _ = choose(replace(task, calibration=digits.train[:40], config=QuantizeConfig(samples=64, keep_float="none")))
    assert choice.notes == ("calibrated on 40 images, all there are, where quantize.samples=64",)


def test_what_cannot_be_is_one_line_before_anything_is_made(task, digits):
    for kind, changed in (
        (DataError, replace(task, calibration=digits.train[:0])),
        (ConfigError, replace(task, config=QuantizeConfig(keep_float=["nothing"]))),
        (ConfigError, replace(task, config=QuantizeConfig(keep_float="nothing"))),
        (CheckpointError, replace(task, source=task.folder)),
    ):
        with pytest.raises(kind) as caught:
            choose(changed)
        assert "\n" not in str(caught.value)
    assert not list(task.folder.iterdir())


def test_all_are_timed_in_turn(resnet_file, digits):
    asked = []

    def asking(name):
        def answer(batch):
            asked.append((name, len(batch)))
            return digits.val_targets[: len(batch), None].eq(torch.arange(10)).float().numpy()

        return answer

    found = measured([Candidate(name, resnet_file, asking(name)) for name in ("fp32", "other")], digits.val[:20], digits.val_targets[:20])
    assert [candidate.quality.agreement for candidate in found] == [1, 1]
    assert {name for name, size in asked if size == 1} == {"fp32", "other"}


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_its_line(task, monkeypatch, missing):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MachineError) as caught:
        choose(task)
    assert str(caught.value) == f"quantising an ONNX file needs {missing}, which is not installed: pip install 'distillctl[onnx]'"


def test_the_keys_have_ranges():
    config = QuantizeConfig(samples=0, max_drop=-1, min_agreement=2, calibration="all")
    assert [problem.partition("=")[0] for problem in check(config)] == ["calibration", "samples", "max_drop", "min_agreement"]
    assert check(QuantizeConfig()) == []


def test_what_keep_float_may_say():
    assert kept_names("auto") is None
    assert kept_names("none") == kept_names(None) == []
    assert kept_names(["a", "b"]) == ["a", "b"]
    for wrong in ("all", [1], [""], 3):
        with pytest.raises(ValueError, match="must be auto, none or a list"):
            kept_names(wrong)
