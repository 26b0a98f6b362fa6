"""From a teacher to a file in one run, and a student that is ready made smaller: what is left, in which rows, and which of it is final."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, call
from safetensors.torch import load_file

from distillctl.models.shipping import read_record

FEW = ("trainer.batch_size=64", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "distill.epochs=1")


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def rows(run: Path) -> dict[str, dict]:
    return {row["model"]: row for row in summary(run)["rows"]}


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def done(*argv: str, cwd: Path) -> Path:
    finished = call(*argv, cwd=cwd)
    assert finished.code == 0, finished.err
    return cwd / next(word for word in argv if word.startswith("hydra.run.dir=")).partition("=")[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploying")


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """From nothing to an int8 file, the net cut on the way."""
    return done(
        "train",
        *TINY,
        "prune=magnitude",
        "deploy=onnx_int8",
        "quantize.min_agreement=0",
        "quantize.max_drop=1",
        "hydra.run.dir=whole",
        cwd=place,
    )


def test_one_run_leaves_each_model_of_the_way_and_its_row(whole: Path):
    assert list(rows(whole)) == [
        *("teacher", "distilled", "pruned", "distilled again", "alone", "pruned alone"),
        *("fp32 (ONNX Runtime)", "int8 (ONNX Runtime)"),
    ]
    assert summary(whole)["final"] == "int8 (ONNX Runtime)"
    assert [step["name"] for step in record(whole)["plan"]["steps"]] == [
        *("pretrain", "distill", "prune", "distill-again", "alone", "pruned-alone", "export", "quantize"),
    ]
    for name in ("student.onnx", "student.json", "labels.txt", "predict.py", "README.md"):
        assert (whole / "export" / name).is_file()
        assert (whole / "quantize" / name).is_file()
    assert not (whole / "quantize/candidates").exists()


def test_what_was_cut_is_in_the_record_and_saves_macs_and_bytes(whole: Path):
    found, kept = rows(whole), record(whole)["stages"]["prune"]
    assert found["pruned"]["macs"] == kept["macs"] < kept["macs_before"] == found["distilled"]["macs"]
    assert found["distilled again"]["parameters"] == found["fp32 (ONNX Runtime)"]["parameters"] < found["distilled"]["parameters"]
    assert found["int8 (ONNX Runtime)"]["size_mb"] < 0.8 * found["fp32 (ONNX Runtime)"]["size_mb"]
    shipped = read_record(whole / "distill-again/student.safetensors", "x")
    assert shipped.architecture.edits == read_record(whole / "prune/student.safetensors", "x").architecture.edits
    assert any(edit.became.startswith("channels") for edit in shipped.architecture.edits)


def test_the_pruned_net_alone_began_with_weights_of_its_own(whole: Path):
    again, alone = (load_file(whole / name / "student.safetensors") for name in ("distill-again", "pruned-alone"))
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in alone.items()}
    assert not any(torch.equal(again[name], alone[name]) for name in again if name.endswith("conv1.weight"))


def test_a_pruned_student_loads_by_its_script_without_this_package(whole: Path, tmp_path: Path):
    code = "import sys; sys.modules['distillctl'] = None; import load_student; net = load_student.load(); import torch; print(net(torch.ones(1, 3, 8, 8)).tolist()[0])"
    told = subprocess.run([sys.executable, "-c", code], cwd=whole / "distill-again", check=True, capture_output=True, text=True).stdout
    import distillctl

    with torch.inference_mode():
        ours = distillctl.load(whole / "distill-again").net(torch.ones(1, 3, 8, 8))[0]
    assert np.allclose(json.loads(told), ours, atol=1e-5)


def test_the_temperature_of_the_validation_split_travels_with_the_file(whole: Path):
    records = [read_record(whole / name / "student.onnx", "x") for name in ("export", "quantize")]
    assert records[0].temperature == records[1].temperature
    assert records[0].temperature not in (None, 1.0)
    assert [each.exported.precision for each in records] == ["fp32", "int8"]
    assert records[1].parents.start == records[0].sha256


def test_the_card_holds_what_was_measured_of_the_file(whole: Path):
    text, row = (whole / "quantize/README.md").read_text(), rows(whole)["int8 (ONNX Runtime)"]
    assert f"{100 * row['top1']:.2f}" in text
    assert "int8" in text
    assert str(whole) not in text


def test_the_run_s_folder_stands_for_the_file_that_is_final(whole: Path):
    digit = np.zeros((8, 8, 3), np.uint8)
    from PIL import Image

    Image.fromarray(digit).save(whole.parent / "digit.png")
    told = [
        call("predict", f"checkpoint={given}", "inputs=[digit.png]", "format=jsonl", cwd=whole.parent)
        for given in ("whole", "whole/quantize/student.onnx")
    ]
    assert [each.code for each in told] == [0, 0], told
    assert told[0].out == told[1].out


@pytest.fixture(scope="module")
def student(place: Path, tiny_run: Path) -> Path:
    return tiny_run


def test_a_file_that_answers_otherwise_is_kept_and_not_final(place: Path, student: Path):
    run = done("export", f"checkpoint={student}", "quantize=int4_weights", "quantize.min_agreement=1", "hydra.run.dir=worse", cwd=place)
    kept = record(run)["stages"]["quantize"]
    if kept["accepted"]:
        pytest.skip("this net answers alike in 4 bits")
    assert summary(run)["final"] == "fp32 (ONNX Runtime)"
    assert "int4 (ONNX Runtime)" in rows(run)
    assert "is under quantize.min_agreement=1" in kept["why"]


def test_single_weights_that_are_zero_stay_so_while_it_learns_again(place: Path, student: Path):
    run = done("compress", f"checkpoint={student}", "prune=unstructured", "prune.ratio=0.7", *FEW, "hydra.run.dir=sparse", cwd=place)
    cut, again = (load_file(run / name / "student.safetensors") for name in ("prune", "train-again"))
    weights = [name for name, value in cut.items() if value.ndim > 1]
    assert sum(int((cut[name] == 0).sum()) for name in weights) / sum(cut[name].numel() for name in weights) == pytest.approx(0.7, abs=0.01)
    assert all(bool((again[name][cut[name] == 0] == 0).all()) for name in weights)
    assert not all(torch.equal(cut[name], again[name]) for name in weights)


def test_several_steps_cut_a_part_each_with_training_between(place: Path, student: Path):
    run = done(
        *(
            "compress",
            f"checkpoint={student}",
            f"teacher.checkpoint={student}/pretrain",
            "prune=taylor",
            "prune.target_macs=0.5",
            "prune.steps=2",
            *FEW,
        ),
        "hydra.run.dir=steps",
        cwd=place,
    )
    assert list(rows(run)) == ["teacher", "before", "pruned 1", "distilled again 1", "pruned", "distilled again"]
    macs = [rows(run)[name]["macs"] for name in ("before", "pruned 1", "pruned")]
    assert macs[0] > macs[1] > macs[2]
    assert macs[2] / macs[0] == pytest.approx(0.5, abs=0.06)


def test_training_for_int8_leaves_a_float_net_its_ranges_and_the_file(place: Path, student: Path):
    run = done(
        "compress", f"checkpoint={student}", f"teacher.checkpoint={student}/pretrain", "quantize=qat", *FEW, "hydra.run.dir=qat", cwd=place
    )
    assert {row["model"] for row in summary(run)["rows"]} == {"teacher", "before", "fp32 (ONNX Runtime)", "int8 (ONNX Runtime)"}
    assert (run / "qat/student.ranges").is_file()
    import distillctl

    with torch.inference_mode():
        ours = distillctl.load(run / "qat")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).logits  # a plain net, by its record
    assert ours.isfinite().all()
    assert read_record(run / "quantize/student.onnx", "x").exported.precision == "int8"


def test_quantize_auto_says_what_it_measured_of_each_candidate(place: Path, student: Path):
    run = done("export", f"checkpoint={student}", "quantize=auto", "hydra.run.dir=auto", cwd=place)
    stage = record(run)["stages"]["quantize"]
    assert {"static", "dynamic", "fp16"} <= {figures["name"] for figures in stage["figures"]}
    assert stage["file"] == (stage["chosen"] != "fp32")
    assert stage["why"]
    assert ("quantized (ONNX Runtime)" in rows(run)) == stage["file"]
    assert (run / "quantize/student.onnx").exists() == stage["file"]


def test_a_plan_with_files_is_shown_without_training(place: Path, student: Path):
    shown = call("train", "--plan", *TINY, "prune=bn_scale", "deploy=onnx_int8", cwd=place)
    assert shown.code == 0, shown.err
    for word in ("prune", "bn_scale", "export", "onnx", "quantize", "static", "distill-again"):
        assert word in shown.out


def test_a_sweep_over_quantisers_has_a_row_for_each(place: Path, student: Path):
    swept = call(
        "export",
        "-m",
        f"checkpoint={student}",
        "quantize=fp16,int8_weights",
        "quantize.min_agreement=0",
        "quantize.max_drop=1",
        "hydra.sweep.dir=sweep",
        cwd=place,
    )
    assert swept.code == 0, swept.err
    assert [json.loads((place / f"sweep/{job}/summary.json").read_text())["final"] for job in (0, 1)] == [
        "fp16 (ONNX Runtime)",
        "int8 (ONNX Runtime)",
    ]
