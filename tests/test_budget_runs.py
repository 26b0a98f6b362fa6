"""A student is made to meet a budget, as the command line does it: by the first level, by a later one, by none; taken up again; bad budgets."""

import json
import shutil
from pathlib import Path

import pytest
from commands import call

pytest.importorskip("torch_pruning")
pytest.importorskip("onnxruntime")

QUICK = (
    "trainer.batch_size=64",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.threads=1",
    "distill.epochs=1",
    "quantize.samples=32",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a resnet8 in it that knows digits."""
    folder = tmp_path_factory.mktemp("budget")
    done = call("pretrain", "teacher=resnet8", "dataset=digits", "pretrain.epochs=4", *QUICK[:4], "hydra.run.dir=student", cwd=folder)
    assert done.code == 0, done.err
    return folder


def compress(folder: Path, name: str, *argv: str) -> tuple[str, dict, dict]:
    """What is said, run.json and summary.json."""
    done = call("compress", "checkpoint=student", *QUICK, *argv, f"hydra.run.dir={name}", cwd=folder)
    assert done.code == 0, done.err
    return (
        done.out + done.err,
        json.loads((folder / name / "run.json").read_text()),
        json.loads((folder / name / "summary.json").read_text()),
    )


def test_the_student_as_it_is_may_do(place: Path):
    said, run, summary = compress(place, "first", "budget.size_mb=5", "budget.max_drop=0.05", "prune.target_macs=0.5", "prune=magnitude")
    assert run["budget_met"] is True
    assert summary["final"].endswith(" 100%")
    assert [row["model"] for row in summary["rows"]] == ["before", "fp32 100%", "int8 100%"]
    assert run["stages"]["judge-100"]["met"] is True
    assert run["stages"]["export-50"] == {"left_out": "level 50%: not needed, level 100% meets the budget"}
    assert said.count("level 50%: not needed") == 1
    assert not (place / "first/train-again-50").exists()
    assert f"* final: {summary['final']}, of the mildest level that meets the budget: size" in said


@pytest.fixture(scope="module")
def third(place: Path) -> tuple[str, dict, dict]:
    """Of 100 %, 75 % and 50 % the last is small enough in 8 bits, whatever it has forgotten."""
    return compress(place, "third", "budget.size_mb=0.09", "budget.max_drop=1")


def test_levels_that_cannot_meet_it_are_not_trained(place: Path, third: tuple[str, dict, dict]):
    said, run, summary = third
    assert summary["final"] == "int8 50%"
    assert run["budget_met"] is True
    assert [row["model"] for row in summary["rows"]] == ["before", "fp32 50%", "int8 50%"]
    file = place / "third/quantize-50/student.onnx"
    assert file.stat().st_size <= 90_000
    assert run["stages"]["train-again-75"]["left_out"].startswith("level 75%: left out, int8 75% would have size 0.09")
    assert run["stages"]["export-35"]["left_out"] == "level 35%: not needed, level 50% meets the budget"
    assert run["stages"]["level-50"]["macs"] == pytest.approx(run["stages"]["survey"]["macs"] / 2, rel=0.03)
    assert "level 100%: left out, int8 100% would have size" in said
    [untrained] = [figures for figures in run["stages"]["level-50"]["figures"] if figures["name"] == "int8 50%"]
    assert untrained["size_mb"] == pytest.approx(file.stat().st_size / 1e6, rel=0.02)


def test_the_checkpoint_of_the_run_is_the_file_that_is_kept(place: Path, third: tuple[str, dict, dict]):
    done = call("evaluate", "checkpoint=third", "split=val", "hydra.run.dir=evaluated", "trainer.precision=fp32", cwd=place)
    assert done.code == 0, done.err
    measured = json.loads((place / "evaluated/evaluation.json").read_text())["measured"]
    assert measured["top1"] == third[1]["stages"]["judge-50"]["accuracies"]["int8 50%"]
    assert third[1]["plan"]["final"] == "int8 50%"


def test_a_run_that_was_killed_goes_on_without_redoing_levels(place: Path, third: tuple[str, dict, dict]):
    shutil.copytree(place / "third", place / "killed")
    run = json.loads((place / "killed/run.json").read_text())
    for name in ("quantize-50", "judge-50"):
        del run["stages"][name]
        shutil.rmtree(place / "killed" / name)
    run |= {"status": "running", "budget_met": None}
    (place / "killed/run.json").write_text(json.dumps(run))
    done = call("compress", "resume=killed", cwd=place)
    assert done.code == 0, done.err
    assert "level-75: done before" in done.out
    assert "export-50: done before" in done.out
    for name in (
        "level-50/student.safetensors",
        "train-again-50/student.safetensors",
        "export-50/student.onnx",
        "quantize-50/student.onnx",
    ):
        assert (place / "killed" / name).read_bytes() == (place / "third" / name).read_bytes()
    again = json.loads((place / "killed/run.json").read_text())
    assert again["budget_met"] is True
    assert again["plan"] == third[1]["plan"]


def test_where_none_meets_it_the_nearest_is_made_and_said(place: Path):
    said, run, summary = compress(place, "none", "budget.size_mb=0.05", "budget.max_drop=0.02", "prune=magnitude", "prune.target_macs=0.5")
    assert run["budget_met"] is False
    assert summary["final"] == "int8 50%"
    assert "no level can meet the budget; the nearest, level-50, is made all the same: int8 50% would have size" in said
    assert "no candidate meets the budget: the nearest is int8 50% (size 0.07" in said
    assert "raise budget.size_mb" in said
    assert (place / "none/quantize-50/student.onnx").exists()
    assert not (place / "none/quantize-100").exists()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["budget.latency_ms=1e-9"], "budget.latency_ms=1e-09: no file answers in less than 0.001 ms; raise it"),
        (["budget.latency_ms=0"], "budget.latency_ms=0.0 must be > 0"),
        (["budget.size_mb=-1"], "budget.size_mb=-1.0 must be > 0"),
        (["budget.size_mb=small"], "budget.size_mb"),
        (["budget.macs=1"], "budget.macs=1: all multiply-accumulates stay, so nothing is asked; half of them: budget.macs=0.5"),
        (["budget.max_drop=2", "budget.size_mb=1"], "budget.max_drop=2.0 must be <= 1"),
        (["budget.max_drop=0.02", "quantize=auto"], "budget.max_drop=0.02 alone asks for nothing: give budget.size_mb"),
        (
            ["budget.size_mb=1", "prune=magnitude", "prune.steps=3"],
            "prune.steps=3: each level of a budget is cut in one step; leave it out",
        ),
        (["budget.size_mb=1", "prune=unstructured"], "prune=unstructured: zeros make no file smaller or faster"),
        (
            ["budget.size_mb=1", "finetune.epochs=3"],
            "finetune.epochs=3: each level of a budget is trained again by distill.epochs; set that",
        ),
        (["budget.size_mb=1", "baseline=true"], "baseline=true: a budget tries several levels"),
        (["budget.size_mb=1", "export.format=coreml"], "export.format=coreml: a budget is measured on the file; take export.format=onnx"),
        (["budget.size_mb=1", "dataset.labels=false"], "dataset.labels=false: budget.max_drop is about accuracy, which needs labels"),
        (["budget.size_mb=0.001"], "budget.size_mb=0.001: the strongest level, 25%, leaves resnet8"),
        (["budget.macs=2"], "budget.macs=2: the strongest level, 25%, leaves resnet8"),
        (["budget.size_gb=1"], "budget.size_gb"),
    ],
)
def test_a_bad_budget_is_one_line_before_any_training(place: Path, tmp_path: Path, argv: list[str], line: str):
    done = call("compress", f"checkpoint={place / 'student'}", *QUICK, *argv, "hydra.run.dir=bad", cwd=tmp_path)
    assert done.code == 2, done.out
    assert line in done.err
    assert done.err.strip().count("\n") == 0
    assert not list(tmp_path.glob("bad/level-*"))


def test_the_plan_shows_the_ladder(place: Path):
    done = call("compress", "checkpoint=student", *QUICK, "budget.size_mb=1", "--plan", cwd=place)
    assert done.code == 0, done.err
    for word in (
        "survey",
        "level-100",
        "train-again-75",
        "quantize-50",
        "judge-25",
        "as it is",
        "final is the file of the first level that meets",
    ):
        assert word in done.out
