"""The minutes of a run: how they are shared out, where a step ends, and that what was cut short is whole."""

import json
from pathlib import Path

import pytest

from distillctl.runs.clock import Allowance, Clock


@pytest.fixture
def still(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr("distillctl.runs.clock.time.monotonic", lambda: now[0])
    return now


def test_the_time_is_shared_by_what_steps_cost_and_some_is_kept_for_measuring(still):
    clock = Clock(limit_s=1000.0, costs={"pretrain": 300.0, "distill": 100.0}, to_answer=[100, 100], sample_s=0.5)
    assert clock.allot("pretrain") == pytest.approx((1000 - 102) * 3 / 4)  # 100 samples of two rows at half a second, and a second each
    still[0] += 600
    assert clock.allot("distill") == pytest.approx(1000 - 600 - 102)
    still[0] += 400
    assert clock.allot("distill") == 0
    assert Clock(costs={"pretrain": 1.0}).allot("pretrain") is None


def test_earlier_attempts_count(still):
    clock = Clock(limit_s=100.0, before_s=40.0, costs={"distill": 1.0})
    still[0] += 5
    assert clock.elapsed_s() == 45
    assert clock.allot("distill") == pytest.approx(50)  # a twentieth is kept at least
    step = Allowance(allotted_s=20.0, before_s=10.0)
    still[0] += 5
    assert (step.spent_s(), step.gone()) == (15, 0.75)
    assert Allowance().gone() == 0


def test_a_run_that_its_minutes_end_is_whole_and_says_so(distillctl, tmp_path: Path, tiny):
    words = ("dataset.subset=200", "trainer.max_minutes=0.0001", "finetune.epochs=1", "pretrain.epochs=9", "distill.epochs=9")
    tiny = [word for word in tiny if "epochs" not in word]
    finished = distillctl("train", *tiny, *words, "hydra.run.dir=run", cwd=tmp_path, env={"DISTILLCTL_CACHE": str(tmp_path / "cache")})
    assert finished.code == 0, finished.err
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "done"
    assert {name: (stage["steps"], stage["out_of_time"]) for name, stage in record["stages"].items()} == {
        "pretrain": (1, True),
        "distill": (1, True),
        "finetune": (1, True),
        "alone": (1, True),
    }
    assert "stopped in time by trainer.max_minutes=0.0001 (steps: pretrain 1 of 27, distill 1 of 27, finetune 1 of 3, alone" in finished.out
    assert (tmp_path / "run/finetune/student.safetensors").is_file()
    assert not list((tmp_path / "cache").rglob("teachers/*.json"))  # a teacher that the clock has ended is nobody else's
    assert "nothing to do" in distillctl("train", f"resume={tmp_path / 'run'}", cwd=tmp_path).out
