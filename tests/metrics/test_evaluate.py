"""`evaluate` with a teacher, a temperature and corruptions: what its report holds, what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from distillctl.config import AttackConfig
from distillctl.errors import ConfigError, MachineError
from distillctl.metrics import autoattack, robustness
from distillctl.metrics.corruptions import CORRUPTIONS
from distillctl.runtime import Runtime
from distillctl.types import Batch, Output

WORDS = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")


@pytest.fixture(scope="module")
def evaluated(distillctl, tiny_run: Path, tmp_path_factory):
    """The report on the test split beside the teacher, with corruptions, and what was printed."""
    place = tmp_path_factory.mktemp("evaluated")
    words = (f"checkpoint={tiny_run}/distill", f"teacher.checkpoint={tiny_run}/pretrain", "corruptions=true", "corruption_severities=[1,5]")
    finished = distillctl("evaluate", *words, *WORDS, "hydra.run.dir=out", cwd=place)
    assert finished.code == 0, finished.err
    return json.loads((place / "out/evaluation.json").read_text()), finished.out


def test_calibration_is_told_before_and_after(evaluated):
    report, printed = evaluated
    measured = report["measured"]
    assert measured["temperature"] > 0
    assert measured["temperature_n"] == 144
    assert measured["nll_scaled"] != measured["nll"]
    assert f"temperature {measured['temperature']:.3f}, fitted on 144 validation images: ECE {measured['ece']:.3f} -> " in printed


def test_what_differs_from_the_teacher(evaluated):
    report, printed = evaluated
    measured, lost = report["measured"], report["lost_by_class"]
    assert 0 < measured["cka"] <= 1
    assert f"CKA of pooled features with the teacher's: {measured['cka']:.3f}" in printed
    assert sum(entry["n"] for entry in lost) == measured["n"]
    assert [entry["lost"] for entry in lost] == sorted((entry["lost"] for entry in lost), reverse=True)
    total = sum(entry["lost"] * entry["n"] for entry in lost) / measured["n"]
    assert measured["negative_flips"] - measured["positive_flips"] == pytest.approx(total)
    assert "right by the teacher and wrong here" in printed


def test_corruptions_by_name_and_severity(evaluated):
    report, printed = evaluated
    found = report["corruptions"]
    assert list(found["accuracy"]) == list(CORRUPTIONS)
    assert all(list(by) == ["1", "5"] for by in found["accuracy"].values())
    means = [1 - (by["1"] + by["5"]) / 2 for by in found["accuracy"].values()]
    assert found["mean_error"] == pytest.approx(sum(means) / 10)
    assert found["normalised_by"] == "teacher"
    assert found["strengths"] == "CIFAR-10-C"
    assert "top-1 % under corruptions, strengths of CIFAR-10-C" in printed
    assert "of the teacher's errors" in printed
    assert max(map(len, printed.splitlines())) <= 140


def test_a_model_is_its_own_twin(distillctl, tiny_run: Path, tmp_path: Path):
    words = (
        f"checkpoint={tiny_run}/pretrain",
        f"teacher.checkpoint={tiny_run}/pretrain",
        "split=val",
        "corruptions=[fog,jpeg_compression]",
    )
    finished = distillctl("evaluate", *words, *WORDS, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert report["measured"]["cka"] == pytest.approx(1)
    assert (report["measured"]["negative_flips"], report["measured"]["positive_flips"]) == (0, 0)
    assert report["corruptions"]["normalised"] == {"fog": pytest.approx(1), "jpeg_compression": pytest.approx(1)}
    assert "temperature" not in report["measured"]  # it would be fitted on what is measured
    assert "lost most" not in finished.out


def test_without_a_teacher_the_error_is_not_normalised(distillctl, tiny_run: Path, tmp_path: Path):
    words = (f"checkpoint={tiny_run}/pretrain", "split=val", "corruptions=contrast", "corruption_severities=[3]")
    finished = distillctl("evaluate", *words, *WORDS, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert "normalised_error" not in report["corruptions"]
    assert "cka" not in report["measured"]
    assert "mean corruption error: " in finished.out
    assert "CE %" not in finished.out


def test_the_batch_size_changes_no_corruption(distillctl, tiny_run: Path, tmp_path: Path):
    reports = []
    for size in (7, 144):
        words = (f"checkpoint={tiny_run}/pretrain", "split=val", "corruptions=[gaussian_noise,fog]", f"trainer.batch_size={size}")
        assert distillctl("evaluate", *words, *WORDS, f"hydra.run.dir=out{size}", cwd=tmp_path).code == 0
        reports.append(json.loads((tmp_path / f"out{size}/evaluation.json").read_text())["corruptions"])
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["corruptions=fogg"], "corruptions=fogg: no such corruption; did you mean fog?"),
        (["corruptions=[fog,snow]"], "corruptions=snow: no such corruption; known: "),
        (["corruptions=[]"], "corruptions=[]: expected true, or a list"),
        (["corruptions=true", "corruption_severities=[0]"], "corruption_severities=0: severities go from 1 to 5"),
        (["corruptions=true", "corruption_severities=[1,6]"], "corruption_severities=6: severities go from 1 to 5"),
        (["corruptions=true", "corruption_severities=[]"], "corruption_severities=[] leaves none"),
        (["corruption_severities=[1]"], "there are none; add corruptions=true"),
        (["corruptions=true", "split=val", "dataset.labels=false", "teacher.checkpoint={run}/pretrain"], "have no labels to be answered"),
        (["cost=true", "cost_batch=0"], "cost_batch=0 must be >= 1"),
        (["cost=much"], "cost=much: expected true or false"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, said, distillctl, tiny_run: Path, tmp_path: Path):
    words = [word.format(run=tiny_run) for word in words]
    refused = distillctl("evaluate", f"checkpoint={tiny_run}/pretrain", *words, *WORDS, "hydra.run.dir=out", cwd=tmp_path)
    assert refused.code == 2
    assert said in refused.err
    assert refused.err.count("error: ") == 1
    assert len(refused.err.strip().splitlines()) == 1
    assert not (tmp_path / "out/evaluation.json").exists()


# an exported file


def test_an_exported_file_is_measured_in_its_own_runtime(distillctl, tiny_run: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = distillctl("export", f"checkpoint={tiny_run}", "format=onnx", *WORDS, "hydra.run.dir=exported", cwd=tmp_path)
    assert exported.code == 0, exported.err
    file = tmp_path / "exported/export/student.onnx"
    words = ("cost=true", "cost_batch=9", "corruptions=fog", "corruption_severities=[3]", f"teacher.checkpoint={tiny_run}/pretrain")
    finished = distillctl("evaluate", f"checkpoint={file}", *words, *WORDS, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert report["cost"]["runtime"] == "ONNX Runtime"
    assert report["cost"]["file_mb"] == file.stat().st_size / 1e6
    assert report["cost"]["peak_memory_mb"] > 1
    assert report["cost"]["parameters"] == report["parameters"] > 10_000
    assert "cka" not in report["measured"]  # nobody looks into it
    assert report["corruptions"]["mean_error"] > 0
    refused = distillctl("evaluate", f"checkpoint={file}", "attack=pgd", *WORDS, "hydra.run.dir=attacked", cwd=tmp_path)
    assert (refused.code, "attack=pgd goes by gradients" in refused.err) == (2, True), refused.err


# AutoAttack


def test_a_training_cannot_be_by_autoattack(distillctl, tiny, tmp_path):
    refused = distillctl("train", *tiny, "attack=autoattack", "method=ard", cwd=tmp_path)
    assert (refused.code, "attack=autoattack measures and does not train" in refused.err) == (2, True), refused.err


def test_autoattack_says_what_it_needs(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(MachineError, match=r"attack=autoattack needs pyautoattack: pip install 'distillctl\[autoattack\]'"):
        autoattack.check_usable(10)
    with pytest.raises(ConfigError, match="here are 3 classes"):
        autoattack.check_usable(3)


class Lines(torch.nn.Module):
    """Scores of four classes, linear in the image, so that the nearest boundary in the maximum norm is known."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3 * 4 * 4, generator=torch.Generator().manual_seed(3)))

    def forward(self, images):
        values = images.float() / 255 if images.dtype == torch.uint8 else images
        return Output((values - 0.5).flatten(1) @ self.weight.T, {})


def test_autoattack_leaves_what_lies_beyond_every_boundary():
    """Image x stays in class y where (w_y - w_k) x > eps |w_y - w_k|_1 for each other k."""
    pytest.importorskip("pyautoattack")
    model, eps = Lines(), 0.004
    images = torch.randint(110, 146, (40, 3, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    targets = model(images).logits.argmax(1).detach()
    logits, weight = model(images).logits.detach(), model.weight.detach()
    margins = logits.gather(1, targets[:, None]) - logits
    reach = eps * (weight[targets][:, None] - weight).abs().sum(2)
    safe = ((margins > reach) | (torch.arange(4) == targets[:, None])).all(1)
    assert 0.2 < safe.double().mean() < 0.8
    before = torch.random.get_rng_state()
    batches = [Batch(images[rows], targets[rows], rows, -1) for rows in torch.arange(40).split(25)]
    config = AttackConfig(name="autoattack", eps=eps)
    found = robustness.robust_accuracy(model, batches, config, 0, Runtime(torch.device("cpu"), torch.float32))
    assert found["robust_top1"] == pytest.approx(safe.double().mean().item())
    assert found["attack"]["name"] == "autoattack"
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.weight.grad is None
