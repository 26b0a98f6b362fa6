"""What `auto` becomes: batches and epochs by the size of the data, once for a run; and what is said of runs of few steps."""

import json
from pathlib import Path

import pytest
from processes import configured

from distillctl.compose import resume
from distillctl.config import AUTO
from distillctl.data.loader import batch_sizes
from distillctl.report.table import Results
from distillctl.runs import budget

HERE = Path()
FOLDER = ("dataset=image_folder", "dataset.root=photos")


def settled(samples: int, *words: str, command: str = "train", pieces: int = 1) -> dict[str, int]:
    return budget.choices(budget.settle(configured(command, HERE, *words), samples, pieces))


# ------------------------------------------------------------------------------------------------ what is chosen
@pytest.mark.parametrize(
    ("samples", "batch", "steps"),
    [
        (12, 12, (200, 200, 100)),  # at most 200 epochs
        (60, 16, (800, 800, 100)),
        (270, 16, (1500, 1000, 100)),
        (2700, 64, (1500, 1000, 100)),
        (5200, 128, (1500, 1000, 100)),
        (45_000, 128, (7000, 4200, 700)),  # at least 20, 12 and 2 epochs
    ],
)
def test_small_sets_have_small_batches_and_enough_steps(samples, batch, steps):
    found = settled(samples, *FOLDER)
    assert found["trainer.batch_size"] == batch
    per_epoch = len(batch_sizes(samples, batch))
    taken = [found[f"{stage}.epochs"] * per_epoch for stage in ("pretrain", "distill", "finetune")]
    for least, count in zip(steps, taken, strict=True):
        assert least <= count < least + per_epoch + 0.03 * least


def test_the_demo_is_as_short_as_it_is():
    assert settled(1294) == {"trainer.batch_size": 128, "pretrain.epochs": 25, "distill.epochs": 6, "finetune.epochs": 2}
    assert settled(1294, "teacher.checkpoint=run", command="distill") == {"trainer.batch_size": 128, "distill.epochs": 20}
    assert settled(180, "dataset.subset=200")["trainer.batch_size"] == 16  # a part of it is a set like any other


def test_what_is_given_stays_and_the_rest_follows_from_it():
    found = settled(2700, *FOLDER, "trainer.batch_size=270", "distill.epochs=7", "finetune.epochs=0")
    assert found == {"trainer.batch_size": 270, "pretrain.epochs": 150, "distill.epochs": 7, "finetune.epochs": 0}


def test_every_piece_of_a_batch_has_two_samples():
    assert settled(400, *FOLDER, "trainer.accumulate=12", pieces=12)["trainer.batch_size"] == 24


def test_counts_are_auto_or_numbers(distillctl, tmp_path):
    assert configured("train", HERE, "distill.epochs=auto").distill.epochs == AUTO
    assert configured("train", HERE, "distill.epochs='3'").distill.epochs == 3
    for word, said in (
        ("distill.epochs=many", "distill.epochs=many: expected a whole number, or auto"),
        ("distill.epochs=1.5", "distill.epochs=1.5: expected a whole number, or auto"),
        ("trainer.batch_size=0", "trainer.batch_size=0 must be >= 1"),
        ("trainer.batch_size=true", "trainer.batch_size=true: expected a whole number, or auto"),
        ("distill.epochs=null", "distill.epochs=null: a value is needed"),
    ):
        finished = distillctl("train", word, cwd=tmp_path)
        assert (finished.code, finished.err.strip()) == (2, f"error: {said}")


# ------------------------------------------------------------------------------------------------ once for a run
def test_a_resumed_run_keeps_what_it_chose_whatever_the_rule_has_become():
    config = configured("train", HERE, *FOLDER, "distill.epochs=4")
    found = budget.choices(budget.settle_as(config, {"trainer.batch_size": 8, "pretrain.epochs": 3, "distill.epochs": 9}))
    assert found == {"trainer.batch_size": 8, "pretrain.epochs": 3, "distill.epochs": 4, "finetune.epochs": AUTO}


@pytest.mark.parametrize("odd", [None, [], {"trainer.batch_size": "x"}, {"trainer.batch_size": -1}, {"trainer.batch_size": True}])
def test_an_odd_record_is_chosen_anew(odd):
    assert budget.choices(budget.settle_as(configured("train", HERE), odd))["trainer.batch_size"] == AUTO


def test_a_run_from_before_keeps_its_numbers(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("trainer:\n  batch_size: 128\npretrain:\n  epochs: 25\ndistill:\n  epochs: auto\n")
    assert resume.counts_before("train", tmp_path, ["trainer.batch_size=64"]) == ["pretrain.epochs=25"]


def test_what_was_chosen_is_said_recorded_and_planned(distillctl, tmp_path):
    words = (
        "teacher=resnet8",
        "dataset.subset=200",
        "trainer.max_steps=2",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.precision=fp32",
        "baseline=false",
    )
    line = (
        "chosen for 180 training images: batches of 16, pretrain 137 epochs (2 steps), distill 91 epochs (2 steps), finetune 10 epochs (2 steps); "
        "choose otherwise by trainer.batch_size=N pretrain.epochs=N distill.epochs=N finetune.epochs=N"
    )
    finished = distillctl("train", *words, "hydra.run.dir=run", cwd=tmp_path, env={"DISTILLCTL_CACHE": str(tmp_path / "cache")})
    assert finished.code == 0, finished.err
    assert line in finished.out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["budget"] == {"trainer.batch_size": 16, "pretrain.epochs": 137, "distill.epochs": 91, "finetune.epochs": 10}
    assert [record["stages"][name]["steps"] for name in ("pretrain", "distill", "finetune")] == [2, 2, 2]
    assert line in distillctl("train", *words, "--plan", cwd=tmp_path).out
    assert "warning: few optimizer steps (pretrain 2, distill 2)" in finished.out
    assert "these figures say little of what distillation brings" in finished.out
    assert "of its teacher's accuracy" not in finished.out


# ------------------------------------------------------------------------------------------------ words
def test_a_run_of_few_steps_does_not_boast():
    row = {"top1": 0.5, "n": 100, "parameters": 1, "latency_p50_ms": 1.0}
    rows = [{"model": name, **row} for name in ("teacher", "distilled", "alone")]
    assert Results(rows, "distilled", ("distilled",), few="few steps").remarks() == ["few steps"]
    assert len(Results(rows, "distilled", ("distilled",)).remarks()) > 1
