"""What a file costs: what is timed and how it is told, the size on the disk, and the memory of a fresh process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distillctl.errors import MachineError
from distillctl.metrics import artifact, latency, memory
from distillctl.metrics.metric import WITHHELD, by_key


class Slept(nn.Module):
    """Writes down how many samples it is asked about."""

    def __init__(self):
        super().__init__()
        self.asked: list[int] = []

    def forward(self, inputs):
        assert not self.training
        assert torch.get_num_threads() == 1
        self.asked.append(len(inputs))
        return inputs


@pytest.fixture
def clock(monkeypatch):
    """A pass takes as many ms as it has samples, and every tenth twice as long."""
    passes = []

    def timed(run):
        run()
        passes.append(run.args)
        return len(run.args[1]) * (2.0 if len(passes) % 10 == 0 else 1.0)

    monkeypatch.setattr(latency, "timed_ms", timed)
    return passes


def test_models_and_batches_take_turns(clock):
    models = {name: artifact.Timed(Slept(), torch.zeros(1, 2), torch.zeros(50, 2)) for name in "ab"}
    found = artifact.runtime_costs(models)
    assert found["a"]["latency_p50_ms"] == 1
    assert found["a"]["latency_p95_ms"] == 2
    assert found["a"]["throughput_per_s"] == pytest.approx(1000)
    assert found["a"]["throughput_batch"] == 50
    assert found["a"]["latency_passes"] == 100 * len(found["a"]["latency_rounds_ms"])
    order = [(id(model), len(inputs)) for model, inputs in clock]
    turns = [pair for place, pair in enumerate(order) if place == 0 or order[place - 1] != pair]
    assert turns[:8] == turns[4:8] + turns[:4]  # each of both models at both batches, then again
    assert len(set(turns[:4])) == 4


def test_the_percentile_is_a_value_that_was_measured():
    values = list(np.random.default_rng(0).normal(size=37))
    for share in (0.5, 0.95, 1.0):
        assert artifact.percentile(values, share) == pytest.approx(np.quantile(values, share, method="inverted_cdf"))
    assert artifact.percentile([3.0], 0.95) == 3.0


def test_what_does_not_repeat_is_withheld():
    costs = {"latency_p50_ms": 5.0, "latency_spread": 0.1, "latency_p95_ms": 9.0, "latency_p95_spread": 0.11}
    costs |= {"throughput_per_s": 100.0, "throughput_spread": 0.02, "throughput_batch": 8}
    told = artifact.withheld(costs)
    assert (told["latency_p50_ms"], told["latency_stable"]) == (5.0, True)
    assert (told["latency_p95_ms"], told["latency_p95_stable"]) == (None, False)
    assert (told["throughput_per_s"], told["throughput_stable"]) == (100.0, True)
    assert costs["latency_p95_ms"] == 9.0


def test_a_table_withholds_it_too():
    metric = by_key("latency_p50_ms")
    assert metric.cell({"latency_p50_ms": 4.2, "latency_spread": 0.1}) == "4.20 ±10%"
    assert metric.cell({"latency_p50_ms": 4.2, "latency_spread": 0.101}) == WITHHELD
    assert metric.cell({"latency_p50_ms": 4.2}) == "4.20"
    assert latency.Spread(1.0, 0.92, 1.1).repeats
    assert not latency.Spread(1.0, 0.85, 1.1).repeats


def test_the_size_is_that_on_the_disk(tmp_path):
    (tmp_path / "model").mkdir()
    for name, size in (("a.bin", 1500), ("b.bin", 500)):
        (tmp_path / "model" / name).write_bytes(b"0" * size)
    assert artifact.file_mb(tmp_path / "model" / "a.bin") == 0.0015
    assert artifact.file_mb(tmp_path / "model") == 0.002


# in a fresh process: these functions are found again by their names


def prepare_block(file: Path, batch: int):
    megabytes = int(file.read_text())

    def answer():
        return np.ones((batch, megabytes * 125_000)).sum()  # float64

    return answer


def prepare_failure(file: Path, batch: int):
    raise OSError("no such runtime")


def test_the_peak_is_what_loading_and_answering_take(tmp_path):
    file = tmp_path / "block"
    found = {}
    for megabytes in (20, 60):
        file.write_text(str(megabytes))
        found[megabytes] = memory.peak_memory_mb(prepare_block, file, 2)
    assert 39 < found[20] < 60
    assert found[60] - found[20] == pytest.approx(80, abs=4)


def test_a_process_that_fails_says_its_last_line(tmp_path):
    with pytest.raises(MachineError, match="failed: OSError: no such runtime"):
        memory.peak_memory_mb(prepare_failure, tmp_path, 1)


def test_evaluate_tells_what_the_file_costs(distillctl, tiny_run: Path, tmp_path: Path):
    words = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "cost=true", "cost_batch=7", "split=val")
    finished = distillctl("evaluate", f"checkpoint={tiny_run}", *words, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    cost, file = report["cost"], Path(report["checkpoint"])
    assert cost["file_mb"] == file.stat().st_size / 1e6
    assert cost["parameters"] == report["parameters"]
    assert cost["macs"] > 0
    assert cost["throughput_batch"] == 7
    assert 1 < cost["peak_memory_mb"] < 500
    assert len(cost["latency_rounds_ms"]) >= latency.FEWEST_ROUNDS
    for figure, about in artifact.FIGURES.items():
        assert (cost[figure] is not None) == cost[f"{about}_stable"] == (cost[f"{about}_spread"] <= 0.1)
    said = " ".join(finished.out.split())
    assert "latency in PyTorch on CPU, one thread, batch 1: p50 " in said
    assert "throughput at batch 7: " in said
    assert "peak memory at batch 7: " in said
    assert "p50 ms" in said


NET = """from torch import nn


class Mean(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.fc(images.mean((2, 3)))
"""


def test_a_net_of_ones_own_is_found_by_the_fresh_process(distillctl, tiny, tmp_path: Path):
    (tmp_path / "own_mean.py").write_text(NET)
    words = [word for word in tiny if not word.startswith(("teacher", "student", "distill", "finetune"))]
    own = ("teacher=own", "teacher._target_=own_mean.Mean", "--trust", "own_mean")
    finished = distillctl("pretrain", *words, *own, "dataset.subset=200", "hydra.run.dir=run", cwd=tmp_path)
    assert finished.code == 0, finished.err
    words = ("trainer.device=cpu", "cost=true", "split=val", "--trust", "own_mean", "hydra.run.dir=out")
    finished = distillctl("evaluate", "checkpoint=run", *words, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["cost"]["peak_memory_mb"] > 0
