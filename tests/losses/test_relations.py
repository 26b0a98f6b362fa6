"""Losses on relations between samples against their formulas, written out one number at a time in float64."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillctl.draws import integers
from distillctl.losses.contrast import UNSEEN, ContrastiveRepresentation, contrast
from distillctl.losses.relations import (
    Congruence,
    Relational,
    angle_gap,
    congruence_gap,
    distance_gap,
    distances,
    neighbourhood_gap,
    similarity_gap,
)
from distillctl.types import Batch, Output

SIZES = {"seed": st.integers(0, 10**6), "count": st.integers(2, 6), "ours": st.integers(1, 4), "theirs": st.integers(1, 4)}


def vectors(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def length(row: list[float]) -> float:
    return math.sqrt(dot(row, row))


def smooth(gap: float) -> float:
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_similarity_by_hand(seed, count, ours, theirs):
    student, teacher = vectors(seed, count, ours, 2, 2), vectors(seed + 1, count, theirs, 3, 3)
    grams = []
    for values in (student, teacher):
        flat = values.flatten(1).tolist()
        gram = [[dot(a, b) for b in flat] for a in flat]
        grams.append([[value / length(row) for value in row] for row in gram])
    total = sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i, j in product(range(count), repeat=2))
    assert similarity_gap(student, teacher).item() == pytest.approx(total / count**2, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_distances_by_hand(seed, count, ours, theirs):
    student, teacher = vectors(seed, count, ours), vectors(seed + 1, count, theirs)
    tables = []
    for values in (student.tolist(), teacher.tolist()):
        table = [[length([x - y for x, y in zip(a, b, strict=True)]) for b in values] for a in values]
        mean = sum(map(sum, table)) / (count * (count - 1))
        tables.append([[value / mean for value in row] for row in table])
    total = sum(smooth(tables[0][i][j] - tables[1][i][j]) for i, j in product(range(count), repeat=2))
    assert distance_gap(student, teacher).item() == pytest.approx(total / count**2, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_angles_by_hand(seed, count, ours, theirs):
    student, teacher = vectors(seed, count, ours), vectors(seed + 1, count, theirs)

    def cosine(values: list[list[float]], j: int, i: int, k: int) -> float:
        one, other = ([a - b for a, b in zip(values[end], values[j], strict=True)] for end in (i, k))
        return dot(one, other) / (length(one) * length(other)) if j not in (i, k) else 0.0

    rows = student.tolist(), teacher.tolist()
    total = sum(smooth(cosine(rows[0], *at) - cosine(rows[1], *at)) for at in product(range(count), repeat=3))
    assert angle_gap(student, teacher).item() == pytest.approx(total / count**3, abs=1e-9)


def test_a_right_triangle_is_known_by_its_angles_whatever_its_size():
    triangle = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
    torch.testing.assert_close(distances(triangle), torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4)
    turned = 10 * triangle @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) + 5
    assert distance_gap(turned, triangle).item() == pytest.approx(0, abs=1e-9)
    assert angle_gap(turned, triangle).item() == pytest.approx(0, abs=1e-9)


def test_distances_and_angles_are_weighed_by_25_and_50():
    student, teacher = vectors(1, 5, 3), vectors(2, 5, 4)
    loss = Relational()(Output(student, {"pooled": student}), Output(teacher, {"pooled": teacher}), None)
    torch.testing.assert_close(loss, 25 * distance_gap(student, teacher) + 50 * angle_gap(student, teacher))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 6), ours=st.integers(2, 4), theirs=st.integers(2, 4))
def test_neighbourhood_by_hand(seed, count, ours, theirs):
    student, teacher = vectors(seed, count, ours), vectors(seed + 1, count, theirs)
    tables = []
    for values in (student.tolist(), teacher.tolist()):
        table = [[(dot(a, b) / (length(a) * length(b)) + 1) / 2 for b in values] for a in values]
        tables.append([[max(value / sum(row), 1e-7) for value in row] for row in table])
    total = sum(tables[1][i][j] * math.log(tables[1][i][j] / tables[0][i][j]) for i, j in product(range(count), repeat=2))
    assert neighbourhood_gap(student, teacher).item() == pytest.approx(total / count**2, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(**SIZES)
def test_congruence_by_hand(seed, count, ours, theirs):
    student, teacher = vectors(seed, count, ours), vectors(seed + 1, count, ours)
    gap = [[abs(a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(student.tolist(), teacher.tolist(), strict=True)]
    total = sum(dot(gap[i], gap[i + 1]) for i in range(count - 1))
    assert congruence_gap(student, teacher).item() == pytest.approx(total / (count - 1), abs=1e-9)
    assert congruence_gap(student[:1], teacher[:1]).item() == 0


PAIRED = {
    "similarity": similarity_gap,
    "distance": distance_gap,
    "angle": angle_gap,
    "neighbourhood": neighbourhood_gap,
    "congruence": congruence_gap,
}


@pytest.mark.parametrize("name", PAIRED)
def test_each_is_least_where_the_features_agree(name):
    teacher = vectors(3, 5, 4)
    same = teacher.clone().requires_grad_()
    value = PAIRED[name](same, teacher)
    (gradient,) = torch.autograd.grad(value, same)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-9
    assert PAIRED[name](teacher + 0.1 * vectors(4, 5, 4), teacher) > 0


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_is_finite_for_samples_that_are_the_same_dead_large_or_alone(name, dtype):
    plain = vectors(5, 4, 3)
    twins, alike, dead, opposite = plain[[0, 0, 1, 1]], plain[:1].repeat(4, 1), torch.zeros(4, 3), torch.stack([plain[0], -plain[0]] * 2)
    cases = [(a, b) for a in (twins, alike, dead, opposite, plain * 1e4) for b in (plain, twins, dead)] + [(plain[:1], plain[1:2])]
    for ours, theirs in cases:
        student = ours.to(dtype).requires_grad_()
        value = PAIRED[name](student, theirs.to(dtype))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_twins_in_the_batch_do_not_count_among_the_distances_that_are_not_zero():
    found = distances(torch.tensor([[0.0], [0.0], [2.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]]))


def test_congruence_embeds_both_sides():
    loss, student, teacher = Congruence(dim=7), vectors(6, 4, 3), vectors(7, 4, 5)
    pair = Output(student, {"pooled": student}), Output(teacher, {"pooled": teacher})
    loss.prepare(*pair, 4)
    loss.double()
    own, theirs = loss.embeddings
    torch.testing.assert_close(loss(*pair, None), congruence_gap(own(student), theirs(teacher)))
    assert own.out_features == theirs.out_features == 7


# ---------------------------------------------------------------- contrast


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), negatives=st.integers(1, 6), samples=st.integers(2, 50))
def test_contrast_by_hand(seed, count, negatives, samples):
    log_positive, log_negative = vectors(seed, count), vectors(seed + 1, count, negatives)
    counts = vectors(seed + 2, count, negatives) > -0.5
    noise, total = negatives / samples, 0.0
    for b in range(count):
        score = math.exp(log_positive[b])
        total -= math.log(score / (score + noise))
        rest = [math.log(noise / (math.exp(log_negative[b, k]) + noise)) for k in range(negatives) if counts[b, k]]
        total -= sum(rest) * negatives / max(len(rest), 1)
    found = contrast(log_positive, log_negative, counts, math.log(noise)).item()
    assert found == pytest.approx(total / count, abs=1e-9)


def contrastive(samples: int = 12, **options) -> ContrastiveRepresentation:
    loss = ContrastiveRepresentation(negatives=9, dim=4, **options)
    torch.manual_seed(3)
    student, teacher = vectors(8, 6, 3).float(), vectors(9, 6, 5).float()
    loss.prepare(Output(student, {"pooled": student}), Output(teacher, {"pooled": teacher}), samples)
    return loss.double()


def step(loss: ContrastiveRepresentation, seed: int, index: list[int]) -> Tensor:
    student, teacher = vectors(seed, len(index), 3), vectors(seed + 1, len(index), 5)
    batch = Batch(student, torch.tensor(index) % 3, torch.tensor(index), 0)
    return loss(Output(student, {"pooled": student}), Output(teacher, {"pooled": teacher}), batch)


def test_a_step_of_contrast_by_hand():
    """Both directions, against the other net's bank; samples of the own class, and those that nobody saw, are no negatives."""
    loss = contrastive()
    step(loss, 10, [0, 1, 2, 3, 4])
    banks, known = loss.banks.clone(), loss.labels.clone()
    index = [4, 7]
    drawn = integers(12, 0, "crd negatives", 1, torch.arange(9))
    student, teacher = vectors(20, 2, 3), vectors(21, 2, 5)
    own = [torch.nn.functional.normalize(embed(values), dim=1) for embed, values in zip(loss.embeddings, (student, teacher), strict=True)]
    total = 0.0
    for side, b in product(range(2), range(2)):

        def score(row: Tensor, side=side, b=b) -> float:
            return math.exp(dot(own[side][b].tolist(), row.tolist()) / 0.07) / math.exp(loss.log_z[side])

        positive = score(banks[1 - side][index[b]])
        total -= math.log(positive / (positive + 9 / 12))
        usable = [k for k in drawn.tolist() if known[k] != UNSEEN and known[k] != index[b] % 3 and k != index[b]]
        rest = [math.log(9 / 12 / (score(banks[1 - side][k]) + 9 / 12)) for k in usable]
        assert rest
        total -= sum(rest) * 9 / len(rest)
    assert step(loss, 20, index).item() == pytest.approx(total / 2, rel=1e-9)
    for side, b in product(range(2), range(2)):
        moved = 0.5 * banks[side, index[b]] + 0.5 * own[side][b]
        torch.testing.assert_close(loss.banks[side, index[b]], moved / moved.norm())
    assert loss.labels[[0, 1, 4, 7, 8]].tolist() == [0, 1, 1, 1, UNSEEN]


def test_z_is_the_mean_score_times_the_samples_of_the_prepared_batch():
    loss = contrastive()
    student, drawn = vectors(8, 6, 3), integers(12, 0, "crd negatives", 0, torch.arange(9))
    own = torch.nn.functional.normalize(loss.embeddings[0](student), dim=1)
    scores = (own @ loss.banks[1, drawn].T / 0.07).exp()
    assert loss.log_z[0].item() == pytest.approx(math.log(scores.mean().item() * 12), rel=1e-5)


def test_banks_begin_at_about_length_one_and_evaluation_leaves_them():
    loss = ContrastiveRepresentation(negatives=8)
    some = vectors(1, 2, 3).float()
    loss.prepare(Output(some, {"pooled": some}), Output(some, {"pooled": some}), 500)
    assert loss.banks.norm(dim=2).mean() == pytest.approx(1, abs=0.02)
    loss = contrastive().eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    step(loss, 10, [0, 1, 2])
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_contrast_goes_on_from_a_checkpoint_as_if_nothing_had_happened():
    whole, first, second = contrastive(), contrastive(), contrastive()
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [3, 1, 2, 0]]
    losses = [step(whole, 30 + number, index) for number, index in enumerate(batches)]
    for number, index in enumerate(batches[:2]):
        step(first, 30 + number, index)
    second.load_state_dict(first.state_dict())
    again = [step(second, 32 + number, index) for number, index in enumerate(batches[2:])]
    assert torch.equal(torch.stack(losses[2:]), torch.stack(again))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
    assert len({tuple(whole.draw().tolist()) for whole.draws in torch.arange(5)}) == 5


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_contrast_is_finite(size):
    loss = contrastive().float()
    for _ in range(3):
        student = (size * vectors(50, 4, 3)).bfloat16().requires_grad_()
        teacher = (size * vectors(51, 4, 5)).bfloat16()
        batch = Batch(student, torch.zeros(4).long(), torch.arange(4), 0)
        value = loss(Output(student, {"pooled": student}), Output(teacher, {"pooled": teacher}), batch)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()
