"""Losses on tokens against their formulas, written out one real token at a time in float64; what is no token has no part in them."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillctl.losses.patient import patience_gap
from distillctl.losses.relation_heads import relation_gap, relations
from distillctl.losses.tinybert import attention_gap, attention_scores, hidden_gap
from distillctl.losses.tokens import mean_over_texts, real

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=3)
SEEDS = st.integers(0, 10**6)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_for(lengths: list[int], upto: int | None = None) -> Tensor:
    return torch.arange(upto or max(lengths))[None] < torch.tensor(lengths)[:, None]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# ---------------------------------------------------------------- formulas, by hand


def hidden_by_hand(student: Tensor, teacher: Tensor, lengths: list[int]) -> float:
    of_texts = []
    for text, length in enumerate(lengths):
        squares = [
            (a - b) ** 2
            for place in range(length)
            for a, b in zip(student[text, place].tolist(), teacher[text, place].tolist(), strict=True)
        ]
        of_texts.append(mean(squares))
    return mean(of_texts)


def score(queries: Tensor, keys: Tensor, text: int, head: int, row: int, column: int) -> float:
    return dot(queries[text, row, head].tolist(), keys[text, column, head].tolist()) / math.sqrt(queries.shape[3])


def attention_by_hand(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], lengths: list[int]) -> float:
    of_texts = []
    for text, length in enumerate(lengths):
        squares = []
        for head, row, column in product(range(student[0].shape[2]), range(length), range(length)):
            place = (text, head, row, column)
            squares.append((score(*student, *place) - score(*teacher, *place)) ** 2)
        of_texts.append(mean(squares))
    return mean(of_texts)


def share(values: Tensor, heads: int, text: int, head: int, row: int, length: int) -> list[float]:
    """The row of a relation, a distribution over the text's own tokens."""
    width = values.shape[2] // heads
    parts = [values[text, place, head * width : (head + 1) * width].tolist() for place in range(length)]
    powers = [math.exp(dot(parts[row], part) / math.sqrt(width)) for part in parts]
    return [power / sum(powers) for power in powers]


def relation_by_hand(student: Tensor, teacher: Tensor, heads: int, lengths: list[int]) -> float:
    of_texts = []
    for text, length in enumerate(lengths):
        rows = []
        for head, row in product(range(heads), range(length)):
            p_s, p_t = (share(values, heads, text, head, row, length) for values in (student, teacher))
            rows.append(sum(t * (math.log(t) - math.log(s)) for s, t in zip(p_s, p_t, strict=True)))
        of_texts.append(mean(rows))
    return mean(of_texts)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, lengths=LENGTHS, width=st.integers(1, 4))
def test_the_gap_of_hidden_states_by_hand(seed, lengths, width):
    student, teacher = (numbers(seed + role, len(lengths), max(lengths), width) for role in (0, 1))
    assert hidden_gap(student, teacher, mask_for(lengths)).item() == pytest.approx(hidden_by_hand(student, teacher, lengths), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, lengths=LENGTHS, heads=st.integers(1, 3), ours=st.integers(1, 4), theirs=st.integers(1, 4))
def test_the_gap_of_attention_by_hand(seed, lengths, heads, ours, theirs):
    pairs = [
        tuple(numbers(seed + 10 * role + part, len(lengths), max(lengths), heads, width) for part in (0, 1))
        for role, width in ((0, ours), (1, theirs))
    ]
    found = attention_gap(*pairs, mask_for(lengths)).item()
    assert found == pytest.approx(attention_by_hand(*pairs, lengths), abs=1e-9)


def test_a_score_has_its_query_by_row_and_its_key_by_column():
    queries, keys = numbers(1, 2, 3, 2, 4), numbers(2, 2, 3, 2, 4)
    found = attention_scores(queries, keys)
    assert found.shape == (2, 2, 3, 3)
    for text, head, row, column in product(range(2), range(2), range(3), range(3)):
        assert found[text, head, row, column].item() == pytest.approx(score(queries, keys, text, head, row, column), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, lengths=LENGTHS, heads=st.integers(1, 3), ours=st.integers(1, 3), theirs=st.integers(1, 3))
def test_the_gap_of_relations_by_hand(seed, lengths, heads, ours, theirs):
    student, teacher = (numbers(seed + role, len(lengths), max(lengths), heads * width) for role, width in ((0, ours), (1, theirs)))
    found = relation_gap(student, teacher, heads, mask_for(lengths)).item()
    assert found == pytest.approx(relation_by_hand(student, teacher, heads, lengths), abs=1e-9)


def test_each_row_of_a_relation_is_shared_among_the_texts_own_tokens():
    shares = relations(numbers(3, 2, 5, 6), 2, mask_for([5, 3])).exp()
    torch.testing.assert_close(shares.sum(3), torch.ones(2, 2, 5, dtype=torch.float64))
    assert shares[1, :, :, 3:].abs().max() == 0


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 3), layers=st.integers(1, 3), width=st.integers(1, 4))
def test_the_gap_of_patience_by_hand(seed, count, layers, width):
    student, teacher = (numbers(seed + role, count, layers, width) for role in (0, 1))
    squares = []
    for text, layer in product(range(count), range(layers)):
        ours, theirs = student[text, layer].tolist(), teacher[text, layer].tolist()
        lengths = math.sqrt(dot(ours, ours)), math.sqrt(dot(theirs, theirs))
        squares += [(a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(ours, theirs, strict=True)]
    assert patience_gap(student, teacher).item() == pytest.approx(mean(squares), abs=1e-9)


# ---------------------------------------------------------------- what is no token

HEADS, WIDTH = 2, 8


def hidden(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return hidden_gap(student, teacher, mask)


def attention_of(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The first half of the width as queries, the second as keys."""
    (q_s, k_s), (q_t, k_t) = (values.unflatten(2, (2, HEADS, -1)).unbind(2) for values in (student, teacher))
    return attention_gap((q_s, k_s), (q_t, k_t), mask)


def related(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return relation_gap(student, teacher, HEADS, mask)


def in_full(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """All three, so that none can make up for another."""
    return torch.stack([hidden(student, teacher, mask), attention_of(student, teacher, mask), related(student, teacher, mask)])


GAPS = pytest.mark.parametrize("gap", [hidden, attention_of, related])


def padded(values: Tensor, lengths: list[int], upto: int, junk: float | None = None) -> Tensor:
    """The texts' own tokens, filled up with what another seed draws, or with one number."""
    found = numbers(99, len(lengths), upto, values.shape[2]) if junk is None else torch.full((len(lengths), upto, values.shape[2]), junk)
    found = found.to(values)
    for text, length in enumerate(lengths):
        found[text, :length] = values[text, :length]
    return found


@GAPS
@pytest.mark.parametrize("junk", [None, 0.0, 1e9, math.inf, math.nan])
def test_how_far_texts_are_filled_up_and_with_what_changes_nothing(gap, junk):
    lengths = [4, 2, 3]
    student, teacher = numbers(1, 3, 4, WIDTH), numbers(2, 3, 4, WIDTH)
    expected = gap(student, teacher, mask_for(lengths)).item()
    for upto in (4, 5, 11):
        filled = [padded(values, lengths, upto, junk).requires_grad_() for values in (student, teacher)]
        found = gap(*filled, mask_for(lengths, upto))
        assert found.item() == pytest.approx(expected, abs=1e-12)
        for values, gradient in zip(filled, torch.autograd.grad(found, filled), strict=True):
            for text, length in enumerate(lengths):
                assert gradient[text, length:].abs().sum() == 0
                assert gradient[text, :length].isfinite().all()
                assert gradient[text, :length].abs().sum() > 0, values.shape


@GAPS
def test_padding_may_lie_anywhere(gap):
    student, teacher = numbers(1, 1, 3, WIDTH), numbers(2, 1, 3, WIDTH)
    mask = torch.tensor([[False, True, True, False, True, False]])
    spread = []
    for values in (student, teacher):
        filled = numbers(5, 1, 6, WIDTH)
        filled[:, [1, 2, 4]] = values
        spread.append(filled)
    assert gap(*spread, mask).item() == pytest.approx(gap(student, teacher, mask_for([3])).item(), abs=1e-12)


@GAPS
def test_a_batch_is_the_mean_of_its_texts_alone(gap):
    lengths = [4, 1, 3]
    student, teacher = numbers(1, 3, 4, WIDTH), numbers(2, 3, 4, WIDTH)
    alone = [
        gap(student[text : text + 1, :length], teacher[text : text + 1, :length], mask_for([length])).item()
        for text, length in enumerate(lengths)
    ]
    assert gap(student, teacher, mask_for(lengths)).item() == pytest.approx(mean(alone), abs=1e-12)


@GAPS
def test_a_text_without_any_token_counts_nothing_and_stays_finite(gap):
    student, teacher = numbers(1, 2, 3, WIDTH).requires_grad_(), numbers(2, 2, 3, WIDTH)
    found = gap(student, teacher, mask_for([3, 0], 3))
    alone = gap(student[:1], teacher[:1], mask_for([3]))
    assert found.item() == pytest.approx(alone.item() / 2, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, student)
    assert gradient.isfinite().all()
    assert gradient[1].abs().sum() == 0


@GAPS
def test_gradients_are_those_of_the_formula(gap):
    mask, teacher = mask_for([3, 2]), numbers(2, 2, 3, WIDTH)
    assert torch.autograd.gradcheck(lambda student: gap(student, teacher, mask), numbers(1, 2, 3, WIDTH).requires_grad_())


def test_gradients_of_patience_are_those_of_the_formula():
    teacher = numbers(2, 2, 3, 4)
    assert torch.autograd.gradcheck(lambda student: patience_gap(student, teacher), numbers(1, 2, 3, 4).requires_grad_())


@GAPS
def test_the_same_tokens_leave_nothing_to_learn(gap):
    student = numbers(1, 2, 3, WIDTH).requires_grad_()
    found = gap(student, student.detach(), mask_for([3, 2]))
    assert found.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(found, student)[0].abs().max() < 1e-12


def test_a_state_without_a_direction_gets_no_gradient():
    student = torch.zeros(1, 1, 3, dtype=torch.float64, requires_grad=True)
    found = patience_gap(student, numbers(1, 1, 1, 3))
    assert found.item() == pytest.approx(1 / 3)
    assert torch.autograd.grad(found, student)[0].abs().sum() == 0


def test_real_tokens_stay_as_they_are_in_full_precision():
    values = numbers(1, 2, 3, 4).bfloat16()
    found = real(values, mask_for([3, 1]))
    assert found.dtype == torch.float32
    assert torch.equal(found[0], values[0].float())
    assert found[1, 1:].abs().sum() == 0


def test_sums_are_divided_by_each_texts_own_count():
    assert mean_over_texts(torch.tensor([8.0, 8.0]), mask_for([4, 2]), power=2).item() == pytest.approx((8 / 16 + 8 / 4) / 2)


@pytest.mark.parametrize("gap", [in_full])
def test_large_numbers_in_float32_stay_finite(gap):
    student, teacher = (1e4 * numbers(seed, 2, 3, WIDTH).float() for seed in (1, 2))
    student.requires_grad_()
    found = gap(student, teacher, mask_for([3, 2]))
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), student)[0].isfinite().all()
