"""Robust distillation from the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FEW = ("dataset.subset=200", "attack.steps=2", "attack.eval_steps=2", "distill.epochs=1", "trainer.batch_size=64")
QUICK = ("student=resnet8", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", *FEW)


@pytest.mark.parametrize("method", ["rslad", "adversarial"])
def test_a_method_alone_is_enough(distillctl, tiny_run: Path, tmp_path: Path, method):
    teacher = () if method == "adversarial" else (f"teacher.checkpoint={tiny_run}/pretrain",)
    finished = distillctl("distill", f"method={method}", *teacher, *QUICK, "hydra.run.dir=out", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert "robust %" in finished.out
    rows = json.loads((tmp_path / "out/summary.json").read_text())["rows"]
    assert [row["model"] for row in rows] == (["distilled"] if method == "adversarial" else ["teacher", "distilled"])
    for row in rows:
        assert 0 <= row["robust_top1"] <= 1
        assert (row["attack"]["steps"], row["attack"]["eps"]) == (2, 8 / 255)


def test_the_same_run_twice_ships_the_same_weights(distillctl, tiny_run: Path, tmp_path: Path):
    """Whatever the global generators hold: the attack draws from counters."""
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        words = (f"teacher.checkpoint={tiny_run}/pretrain", *QUICK, f"hydra.run.dir={name}")
        assert distillctl("distill", "method=rslad", *words, cwd=tmp_path).code == 0
    one, two = (load_file(tmp_path / name / "distill/student.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("attack=none",), ("attack=pgd",)),
        (("method.attacked=[rslda]",), ("method.attacked=rslda", "did you mean rslad?")),
        (("method.objective=mse",), ("method.objective=mse", "ce or kl")),
        (("loss=kd",), ("method.attacked=rslad", "known: ce, kd")),
    ],
)
def test_a_wrong_method_is_one_line(distillctl, tiny_run: Path, tmp_path: Path, words, texts):
    finished = distillctl(
        "distill", "method=rslad", f"teacher.checkpoint={tiny_run}/pretrain", *QUICK, *words, "hydra.run.dir=out", cwd=tmp_path
    )
    assert finished.code == 2
    assert len(finished.err.splitlines()) == 1
    assert all(text in finished.err for text in texts), finished.err
