"""Robust accuracy, against nets whose worst case is known in closed form."""

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.measure import Measurement
from torch import Tensor, nn

from distillctl.config import AttackConfig
from distillctl.methods.attack import Pgd
from distillctl.metrics import robustness
from distillctl.report.table import Results
from distillctl.runtime import Runtime
from distillctl.types import Batch, Output

SHAPE = (3, 4, 4)
PLACE = Runtime(torch.device("cpu"), torch.float32)


class Linear(nn.Module):
    """Class 0 where w·(x - 1/2) > 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(math.prod(SHAPE), generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> Output:
        values = images.float() / 255 if images.dtype == torch.uint8 else images
        score = (values - 0.5).flatten(1) @ self.weight
        return Output(torch.stack([score, -score], 1), {})


def batches(count: int = 60, size: int = 16) -> list[Batch]:
    """Away from 0 and 255, so that the ball is never cut off, and labelled as the net answers."""
    images = torch.randint(110, 146, (count, *SHAPE), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    targets = Linear()(images).logits.argmax(1).detach()
    return [Batch(images[rows], targets[rows], rows, -1) for rows in torch.arange(count).split(size)]


@pytest.mark.parametrize("eps", [0.001, 0.004, 0.01])
def test_what_is_left_of_a_linear_net_is_the_share_of_margins_above_eps(eps):
    """|w·x| > eps ‖w‖₁: below it some image in the ball lies on the other side."""
    model, data = Linear(), batches()
    margins = torch.cat([(model(batch.inputs).logits[:, 0]).abs() for batch in data])
    expected = (margins > eps * model.weight.abs().sum()).double().mean().item()
    found = robustness.robust_accuracy(model, data, AttackConfig(name="pgd", eps=eps, step=eps / 4, eval_steps=10), 0, PLACE)
    assert found["robust_top1"] == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


def test_the_attack_is_told_with_the_figure():
    config = AttackConfig(name="pgd", eps=0.02, step=0.005, steps=3, eval_steps=7, random_start=False)
    found = robustness.robust_accuracy(Linear(), batches(), config, 4, PLACE)
    assert found["attack"] == {"name": "pgd", "eps": 0.02, "step": 0.005, "steps": 7, "random_start": False, "seed": 4}


def test_the_batch_size_does_not_matter_and_the_mode_comes_back():
    model, attack = Linear().train(), Pgd(0.01, 0.003, 3)
    whole, targets = robustness.attacked_answers(model, batches(size=60), attack, PLACE)
    pieces, same_targets = robustness.attacked_answers(model, batches(size=7), attack, PLACE)
    assert torch.equal(targets, same_targets)
    torch.testing.assert_close(whole, pieces, atol=1e-5, rtol=0)
    assert model.training
    assert model.weight.grad is None
    assert not whole.requires_grad


def test_evaluate_measures_it_beside_the_clean_accuracy(distillctl, tiny_run: Path, tmp_path: Path):
    words = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "attack.eps=0.05", "attack.eval_steps=3")
    finished = distillctl("evaluate", f"checkpoint={tiny_run}/pretrain", "attack=pgd", *words, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "robust %" in finished.out
    assert "PGD of 3 steps of 0.00784" in finished.out
    measured = json.loads((tmp_path / "out/evaluation.json").read_text())["measured"]
    assert 0 <= measured["robust_top1"] < measured["top1"]
    assert measured["attack"] == {"name": "pgd", "eps": 0.05, "step": 2 / 255, "steps": 3, "random_start": True, "seed": 0}


def test_without_an_attack_nothing_is_said_about_robustness(distillctl, tiny_run: Path, tmp_path: Path):
    words = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")
    finished = distillctl("evaluate", f"checkpoint={tiny_run}/pretrain", *words, "hydra.run.dir=out", cwd=tmp_path)
    assert "robust" not in finished.out
    assert "robust_top1" not in json.loads((tmp_path / "out/evaluation.json").read_text())["measured"]


def test_the_table_of_a_robust_run_fits_a_terminal():
    row = {"architecture": "resnet20", "n": 1000, "top1": 0.85, "agreement": 0.9, "nll": 0.512, "ece": 0.034, "parameters": 272_000}
    row |= {"macs": 41.2e6, "size_mb": 1.09, "latency_p50_ms": 12.34, "robust_top1": 0.4312}
    rows = [row | {"model": name} for name in ("teacher", "distilled", "fine-tuned", "alone")]
    console = Console(width=200)
    table = Results(rows, "fine-tuned", ("distilled", "fine-tuned")).table("digits test, 359 images")
    assert "robust %" in [column.header for column in table.columns]
    assert Measurement.get(console, console.options, table).maximum <= 80
