"""How long a pass takes: who is timed, in what order, what rounds say together, and when a comparison is one."""

import gc
import json
import os

import pytest
import torch
from torch import nn

from distillctl.metrics import latency
from distillctl.report.table import Results, speed


class Notes(nn.Module):
    """Writes its name down at each pass."""

    def __init__(self, name: str, passes: list[str]) -> None:
        super().__init__()
        self.name, self.passes, self.seen = name, passes, {}

    def forward(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert len(inputs) == 1
        self.seen = {"threads": torch.get_num_threads(), "processors": len(os.sched_getaffinity(0)), "collects": gc.isenabled()}
        self.passes.append(self.name)
        return inputs


@pytest.fixture
def clock(monkeypatch):
    """Each pass takes what the test says, in ms: a list that is used up, or the last of it for ever."""
    times = {}

    def timed(run):
        run()
        queue = times[run.args[0].name]
        return queue.pop(0) if len(queue) > 1 else queue[0]

    monkeypatch.setattr(latency, "timed_ms", timed)
    return times


def test_nets_take_turns_in_rounds(clock):
    passes, clock["a"], clock["b"] = [], [100.0], [100.0]
    found = latency.latencies({name: Notes(name, passes) for name in "ab"}, torch.zeros(3, 1))
    assert passes == list("aabb") + list("ab") * latency.ROUNDS  # two of each warm up; a slow pass is a burst by itself
    assert found == {"a": [100.0] * latency.ROUNDS, "b": [100.0] * latency.ROUNDS}


def test_a_round_is_the_median_of_a_burst(clock):
    clock["a"] = [10.0] * 4 + [10.0, 90.0, 11.0] * latency.ROUNDS + [10.0]
    assert latency.latencies({"a": Notes("a", [])}, torch.zeros(1, 1)) == {"a": [11.0] * latency.ROUNDS}


def test_slow_nets_have_fewer_rounds(clock, monkeypatch):
    monkeypatch.setattr(latency, "BUDGET_S", 0.0)
    clock["a"] = [1000.0]
    assert len(latency.latencies({"a": Notes("a", [])}, torch.zeros(1, 1))["a"]) == latency.FEWEST_ROUNDS


def test_a_pass_has_one_thread_on_one_processor_and_all_is_given_back():
    before = torch.get_num_threads(), os.sched_getaffinity(0), gc.isenabled()
    torch.set_num_threads(2)
    net = Notes("a", [])
    latency.latencies({"a": net}, torch.zeros(1, 1))
    assert net.seen == {"threads": 1, "processors": 1, "collects": False}
    assert (torch.get_num_threads(), os.sched_getaffinity(0), gc.isenabled()) == (2, before[1], before[2])
    torch.set_num_threads(before[0])


def test_where_no_processor_can_be_kept_it_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr(os, "sched_setaffinity", None)
    monkeypatch.delattr(os, "sched_getaffinity")
    with latency.pinned():
        pass


def test_latency_gives_each_module_its_flag_back():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    module[1].eval()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    latency.latencies({"a": module}, torch.randn(1, 3, 8, 8))
    assert [module.training, module[0].training, module[1].training] == [True, True, False]
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    with pytest.raises(RuntimeError):
        latency.latencies({"a": module}, torch.zeros(1, 5, 8, 8))
    assert [module.training, module[1].training] == [True, False]


def test_one_hiccup_changes_nothing():
    assert latency.spread([2.0, 2.0, 2.1, 9.0, 1.9, 2.0, 2.2]) == latency.Spread(2.0, 2.0, 2.2)
    assert latency.spread([2.0, 3.0, 4.0]) == latency.Spread(3.0, 2.0, 4.0)
    assert latency.Spread(3.0, 2.0, 4.0).relative == pytest.approx(1 / 3)


def test_a_spread_is_stable_up_to_a_quarter():
    assert latency.Spread(2.2, 2.0, 2.5).stable
    assert latency.Spread(2.2, 2.0, 2.5).in_words("ms") == "2.2 ms ±11%"
    assert not latency.Spread(2.2, 2.0, 2.6).stable
    assert latency.Spread(2.2, 2.0, 2.6).in_words("ms") == "2.0 to 2.6 ms, not stable here"


def test_nets_are_compared_round_by_round():
    """A machine that becomes three times slower half way slows both, and the ratio stays."""
    slow, fast = [6.0, 6.0, 6.0, 18.0, 18.0], [2.0, 2.0, 2.0, 6.0, 6.0]
    assert latency.times_as_fast(slow, fast) == latency.Spread(3.0, 3.0, 3.0)
    assert not latency.spread(slow).stable


def row(name: str, rounds: list[float] | None) -> dict:
    found = {"model": name, "architecture": name, "n": 100, "top1": 0.9, "parameters": 1000}
    if rounds is None:
        return found
    around = latency.spread(rounds)
    return found | {"latency_p50_ms": around.middle, "latency_spread": around.relative, "latency_rounds_ms": rounds}


@pytest.mark.parametrize(
    ("teacher", "student", "said"),
    [
        ([4.0, 4.2, 4.4], [2.0, 2.0, 2.0], " and 2.1x the speed (2.00 to 2.20 in 3 rounds; one image, one thread)"),
        ([4.0, 4.0, 4.0], [2.0, 1.0, 3.3], "; its speed is not stable here: 1.2x to 4.0x in 3 rounds"),
        ([4.0, 4.0, 4.0], None, ""),
        (None, [4.0, 4.0, 4.0], ""),
        ([4.0, 4.0, 4.0], [2.0, 2.0], ""),
    ],
)
def test_a_ratio_is_said_where_its_spread_allows(teacher, student, said):
    assert speed(row("teacher", teacher), row("student", student)) == said
    results = Results([row("teacher", teacher), row("student", student)], "student")
    assert results.remarks()[0].endswith(said)
    assert ("x the speed" in results.remarks()[0]) == ("x the speed" in said)


def test_the_table_shows_the_spread():
    table = Results([row("teacher", [4.0, 4.2, 4.4]), row("old", None) | {"latency_p50_ms": 1.0}], "teacher").table("digits")
    [column] = [column for column in table.columns if column.header == "p50 ms"]
    assert [str(cell) for cell in column.cells] == ["4.20 ±5%", "1.00"]


def test_rows_of_one_architecture_are_one_net_to_the_clock(distillctl, tiny, tmp_path):
    finished = distillctl("train", *tiny, "student=resnet8", "teacher=resnet14", "dataset.subset=200", "hydra.run.dir=run", cwd=tmp_path)
    assert finished.code == 0, finished.err
    rows = {entry["model"]: entry for entry in json.loads((tmp_path / "run/summary.json").read_text())["rows"]}
    assert rows["distilled"]["latency_rounds_ms"] == rows["alone"]["latency_rounds_ms"]
    assert rows["distilled"]["latency_rounds_ms"] != rows["teacher"]["latency_rounds_ms"]
    assert len(rows["teacher"]["latency_rounds_ms"]) == len(rows["alone"]["latency_rounds_ms"])


def test_the_doctor_times_precisions_in_turn(distillctl, tmp_path):
    said = " ".join(distillctl("doctor", cwd=tmp_path).out.split())
    assert "a step of a small net on one thread: fp32 " in said
    assert " ms ±" in said or "not stable here" in said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_latency_waits_for_the_gpu():
    module, example = nn.Linear(8192, 8192, device="cuda"), torch.zeros(1, 8192, 8192, device="cuda")
    assert latency.spread(latency.latencies({"a": module}, example)["a"]).middle > 5  # 1.1e12 FLOPs; a launch alone returns within 0.1 ms


def test_an_interruption_does_not_make_a_burst_a_single_pass(clock):
    passes, clock["a"] = [], [1.0, 22.0, 22.0, 1.0]  # the first two that count are interrupted
    [rounds] = latency.latencies({"a": Notes("a", passes)}, torch.zeros(3, 1)).values()
    assert len(passes) > 20 * latency.ROUNDS
    assert rounds == [1.0] * latency.ROUNDS
