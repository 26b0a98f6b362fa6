"""The refinements of Hinton's loss against their formulas, written out one number at a time in float64."""

import math
import statistics
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillctl.losses.logits import soft_targets
from distillctl.losses.refined import (
    Curriculum,
    Dynamic,
    StandardisedDecoupled,
    alignment,
    correlated,
    decoupled,
    standardised,
    uncertainty,
)
from distillctl.losses.weighted import build_loss
from distillctl.types import Batch, Output

SHAPES = {"seed": st.integers(0, 10**6), "count": st.integers(2, 6), "classes": st.integers(2, 7)} | {
    "temperature": st.sampled_from((1.0, 2.0, 4.0))
}


def logits(seed: int, count: int = 6, classes: int = 5, scale: float = 2.0) -> Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def labels(seed: int, count: int, classes: int) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@settings(max_examples=15, deadline=None)
@given(**SHAPES)
def test_decoupled_by_hand(seed, count, classes, temperature):
    student, teacher, own = logits(seed, count, classes), logits(seed + 1, count, classes), labels(seed, count, classes)
    total = 0.0
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), own.tolist(), strict=True):
        q, p = softmax(ours, temperature), softmax(theirs, temperature)
        rest_q, rest_p = ([share for k, share in enumerate(shares) if k != label] for shares in (q, p))
        total += 1.5 * kl([p[label], sum(rest_p)], [q[label], sum(rest_q)])
        total += 8 * kl([share / sum(rest_p) for share in rest_p], [share / sum(rest_q) for share in rest_q])
    found = decoupled(student, teacher, own, 1.5, 8.0, temperature).item()
    assert found == pytest.approx(temperature**2 * total / count, rel=1e-9, abs=1e-9)


def test_decoupled_is_hintons_loss_where_the_second_part_counts_as_much_as_the_teacher_doubts():
    """KL = KL of the two + (1 - p_own) KL of the others: the decomposition that the paper starts from."""
    student, teacher, own = logits(1, 1), logits(2, 1), torch.tensor([3])
    doubt = 1 - teacher.softmax(1)[0, 3].item()
    torch.testing.assert_close(decoupled(student, teacher, own, 1.0, doubt, 1.0), soft_targets(student, teacher, 1.0))


def test_the_own_class_of_a_mixed_sample_is_the_larger_share():
    student, teacher = logits(3, 2), logits(4, 2)
    mixed = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 0.4, 0, 0.6]])
    assert decoupled(student, teacher, mixed, 1.0, 8.0, 4.0) == decoupled(student, teacher, torch.tensor([0, 4]), 1.0, 8.0, 4.0)


@settings(max_examples=15, deadline=None)
@given(**SHAPES)
def test_correlated_by_hand(seed, count, classes, temperature):
    student, teacher = logits(seed, count, classes), logits(seed + 1, count, classes)
    q, p = ([softmax(row, temperature) for row in z.tolist()] for z in (student, teacher))
    rows = [statistics.correlation(a, b) for a, b in zip(q, p, strict=True)]
    columns = [statistics.correlation(a, b) for a, b in zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)]
    by_hand = 2 * (1 - statistics.mean(rows)) + 3 * (1 - statistics.mean(columns))
    found = correlated(student, teacher, 2.0, 3.0, temperature).item()
    assert found == pytest.approx(temperature**2 * by_hand, abs=1e-9)


def test_correlation_does_not_ask_for_equal_probabilities():
    teacher = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]], dtype=torch.float64)
    milder = 0.5 * teacher + 0.5 / 3
    assert correlated(milder.log(), teacher.log(), 1.0, 1.0, 1.0).item() == pytest.approx(0, abs=1e-12)
    assert soft_targets(milder.log(), teacher.log(), 1.0) > 0.01


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), classes=st.integers(2, 7))
def test_standardised_by_hand(seed, count, classes):
    values = logits(seed, count, classes)
    for row, found in zip(values.tolist(), standardised(values).tolist(), strict=True):
        middle, spread = statistics.mean(row), statistics.stdev(row)
        assert found == pytest.approx([(value - middle) / spread for value in row], abs=1e-9)


def test_the_published_weights_of_dkd_on_z_scores():
    """9 times DKD's alpha 1 and beta 8, at temperature 2: resnet32x4 to resnet8x4 in the code of Sun et al. 2024."""
    file = yaml.safe_load((Path(__file__).parents[2] / "conf/loss/lsdkd.yaml").read_text())
    student, teacher, own = logits(7), logits(8), labels(9, 6, 5)
    total = build_loss(file)(Output(student, {}), Output(teacher, {}), Batch(torch.zeros(6), own, torch.arange(6), 0))
    by_hand = decoupled(standardised(student), standardised(teacher), own, 9.0, 72.0, 2.0)
    assert total.parts["lsdkd"].item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert file["ce"]["weight"] == 1


def test_standardised_answers_do_not_depend_on_shift_and_scale():
    values = logits(5)
    torch.testing.assert_close(standardised(values * 7 - 3), standardised(values))
    batch = Batch(torch.zeros(6), labels(6, 6, 5), torch.arange(6), 0)
    found = StandardisedDecoupled()(Output(values * 2 + 1, {}), Output(values, {}), batch)
    assert found.item() == pytest.approx(0, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), classes=st.integers(2, 6))
def test_alignment_by_hand(seed, count, classes):
    student, teacher = logits(seed, count, classes), logits(seed + 1, count, classes)
    total = 0.0
    for temperature in (2.0, 5.0):
        q, p = ([softmax(row, temperature) for row in z.tolist()] for z in (student, teacher))
        total += temperature**2 * sum(kl(b, a) for a, b in zip(q, p, strict=True)) / count
        for i in range(count):
            for j in range(count):
                gap = sum(q[i][k] * q[j][k] - p[i][k] * p[j][k] for k in range(classes))
                total += gap**2 / count
        for k in range(classes):
            for m in range(classes):
                gap = sum(q[i][k] * q[i][m] - p[i][k] * p[i][m] for i in range(count))
                total += gap**2 / classes
    assert alignment(student, teacher, [2.0, 5.0]).item() == pytest.approx(total, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(by=st.sampled_from(("student", "teacher")), **SHAPES)
def test_dynamic_by_hand(by, seed, count, classes, temperature):
    student, teacher = logits(seed, count, classes), logits(seed + 1, count, classes)
    doubts, gaps = [], []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        shares = softmax(ours if by == "student" else theirs, 1.0)
        doubt = -sum(share * math.log(share) for share in shares) / math.log(classes)
        doubts.append(doubt if by == "student" else 1 - doubt)
        gaps.append(kl(softmax(theirs, temperature), softmax(ours, temperature)))
    mean = sum(doubts) / count
    by_hand = sum(doubt / mean * gap for doubt, gap in zip(doubts, gaps, strict=True)) / count
    found = Dynamic(by, temperature)(Output(student, {}), Output(teacher, {}), None).item()
    assert found == pytest.approx(temperature**2 * by_hand, rel=1e-9, abs=1e-9)


def test_uncertainty_goes_from_none_to_all():
    found = uncertainty(torch.tensor([[1e4, 0.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, -1e4]]))
    assert found.tolist() == pytest.approx([0, 1, math.log(2) / math.log(3)])


def test_the_weights_of_samples_move_no_gradient():
    """With weights that are held, the gradient is that of each sample's own divergence."""
    student, teacher = logits(12).requires_grad_(), logits(13)
    Dynamic("student", 2.0)(Output(student, {}), Output(teacher, {}), None).backward()
    weights = uncertainty(student.detach())
    for row, weight in enumerate(weights / weights.sum()):
        alone = student.detach()[row : row + 1].requires_grad_()
        soft_targets(alone, teacher[row : row + 1], 2.0).backward()
        torch.testing.assert_close(student.grad[row], weight * alone.grad[0])


def test_where_no_sample_counts_there_is_nothing_to_learn():
    unsure = torch.zeros(2, 4)  # a teacher that is sure of nothing
    found = Dynamic("teacher")(Output(logits(14, 2, 4).float(), {}), Output(unsure, {}), None)
    assert found.item() == 0


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.0), (2.5, -0.14644660940672627), (5, -0.5), (10, -1.0), (200, -1.0)])
def test_a_learned_temperature_climbs_where_the_student_descends(epoch, factor):
    loss, student, teacher = Curriculum().double(), logits(7).requires_grad_(), logits(8)
    batch = Batch(torch.zeros(6), labels(9, 6, 5), torch.arange(6), 0)
    loss.at(epoch, 240)
    value = loss(Output(student, {}), Output(teacher, {}), batch)
    value.backward()
    temperature = 1 + 20 / (1 + math.exp(-1))
    assert value.item() == pytest.approx(soft_targets(student, teacher, temperature).item(), abs=1e-9)
    step = 1e-5
    ahead, behind = (soft_targets(student, teacher, 1 + 20 / (1 + math.exp(-1 - side * step))).item() for side in (1, -1))
    assert loss.raw.grad.item() == pytest.approx(factor * (ahead - behind) / (2 * step), rel=1e-5, abs=1e-9)
    assert student.grad.abs().sum() > 0


LOSSES = {
    "decoupled": lambda s, t: decoupled(s, t, torch.tensor([0, 1, 2]), 1.0, 8.0, 2.0),
    "correlated": lambda s, t: correlated(s, t, 2.0, 2.0, 2.0),
    "standardised": lambda s, t: soft_targets(standardised(s), standardised(t), 2.0),
    "alignment": lambda s, t: alignment(s, t, [2.0, 4.0]),
    "by the student's doubt": lambda s, t: Dynamic("student", 2.0)(Output(s, {}), Output(t, {}), None),
    "by the teacher's confidence": lambda s, t: Dynamic("teacher", 2.0)(Output(s, {}), Output(t, {}), None),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_is_least_where_the_answers_agree(name):
    teacher = logits(10, 3, 4)
    same = teacher.clone().requires_grad_()
    value = LOSSES[name](same, teacher)
    (gradient,) = torch.autograd.grad(value, same)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-9
    assert LOSSES[name](teacher + 0.1 * logits(11, 3, 4), teacher) > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_is_finite_at_extreme_and_at_equal_logits(name, dtype):
    wild = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]]) * 1e4
    tame = torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, 0, 1]])
    for ours, theirs in ((wild, -wild), (wild, tame), (tame, wild), (tame, tame), (0 * wild, wild), (tame * 1e-8, tame)):
        student = ours.to(dtype).requires_grad_()
        value = LOSSES[name](student, theirs.to(dtype))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()
