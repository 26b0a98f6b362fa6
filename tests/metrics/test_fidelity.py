"""Where a student differs from its teacher: by class by hand, and CKA against the formula in plain numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from distillctl.metrics import fidelity
from distillctl.metrics.answers import answers, answers_of
from distillctl.runtime import Runtime
from distillctl.types import Batch, Output

PLACE = Runtime(torch.device("cpu"), torch.float32)


def formula(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the centred Gram matrices [N, N]; Kornblith et al. 2019, section 3."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def features(n: int = 90, p: int = 7, q: int = 12, mean: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64)
    return x + mean, x @ torch.randn(p, q, generator=generator, dtype=torch.float64) + torch.randn(n, q, generator=generator) + mean


def by_batches(x: torch.Tensor, y: torch.Tensor, size: int) -> float | None:
    found = fidelity.LinearCKA(PLACE)
    for one, other in zip(x.split(size), y.split(size), strict=True):
        found.add(one, other)
    return found.value()


@pytest.mark.parametrize("size", [1, 7, 32, 90])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_cka_is_the_formula_whatever_the_batches(size, mean):
    x, y = features(mean=mean)
    expected = formula(x.numpy(), y.numpy())
    assert 0.2 < expected < 0.98
    assert by_batches(x, y, size) == pytest.approx(expected, abs=1e-6 if mean else 1e-12)


def test_a_rotation_and_a_scale_change_nothing():
    x, _ = features()
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert by_batches(x, -3 * x @ rotation + 5, 16) == pytest.approx(1, abs=1e-12)


def test_unrelated_features_are_far_apart():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2000, 3, generator=generator), torch.randn(2000, 3, generator=generator)
    assert by_batches(x, y, 100) < 0.02


@pytest.mark.parametrize("broken", [torch.ones(20, 3), torch.full((20, 3), float("nan")), torch.full((20, 3), 0.1)])
def test_features_that_say_nothing_have_none(broken):
    assert by_batches(torch.randn(20, 4), broken, 7) is None
    assert by_batches(broken, torch.randn(20, 4), 7) is None


def test_one_sample_is_too_few():
    assert by_batches(torch.randn(1, 4), torch.randn(1, 4), 1) is None


def test_tokens_are_averaged():
    tokens = torch.randn(2, 5, 3)
    assert torch.allclose(fidelity.as_vectors(tokens), tokens.mean(1))
    assert torch.equal(fidelity.as_vectors(tokens[:, 0]), tokens[:, 0])


def test_what_was_lost_by_class():
    eye = torch.eye(4)
    targets = torch.tensor([0, 0, 1, 1, 2, 2])
    teacher, student = eye[[0, 0, 1, 1, 0, 2]], eye[[0, 0, 1, 2, 2, 2]]
    found = fidelity.lost_by_class(student, teacher, targets, ["a", "b", "c", "never"])
    assert [(entry["class"], entry["n"], entry["teacher"], entry["student"], entry["lost"]) for entry in found] == [
        ("b", 2, 1.0, 0.5, 0.5),
        ("a", 2, 1.0, 1.0, 0.0),
        ("c", 2, 0.5, 1.0, -0.5),
    ]
    assert fidelity.lost_in_words(found) == "lost most against the teacher: b 50.0 points (n 2)"
    assert fidelity.lost_in_words(fidelity.lost_by_class(teacher, teacher, targets, "abcd")) == ""


class Scaled(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale, self.asked = scale, 0

    def forward(self, inputs):
        assert not self.training
        self.asked += 1
        return Output(self.scale * inputs, {"pooled": inputs})


def test_several_models_read_each_batch_once():
    read, shown, models = [], [], {"a": Scaled(1).train(), "b": Scaled(-1)}

    def batches():
        for rows in torch.arange(10).split(4):
            read.append(len(rows))
            yield Batch(torch.randn(10, 3, generator=torch.Generator().manual_seed(0))[rows], rows % 3, rows, -1)

    logits, targets = answers_of(models, batches(), see=lambda outputs: shown.append(sorted(outputs)))
    assert read == [4, 4, 2]
    assert shown == [["a", "b"]] * 3
    assert torch.equal(logits["a"], -logits["b"])
    assert models["a"].training
    alone, same = answers(Scaled(1), batches(), PLACE)
    assert torch.equal(alone, logits["a"])
    assert torch.equal(targets, same)
