"""Drawn numbers are pure functions of their names, and look random."""

import math

import pytest
import torch
from scipy import stats

from distillctl import draws

INDEX = torch.arange(20_000)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def splitmix(state: int) -> int:
    """The published finalizer, with unbounded integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_the_scheme_is_the_one_that_caches_were_written_with():
    """If this fails, the scheme changed: every cached answer is now for other views. Raise VIEW_SCHEME."""
    assert draws.bits(7, "crop", 3, torch.tensor([0, 1, 49_999])).tolist() == [
        -4852603948590958325,
        8549539049002021368,
        -916738699619953,
    ]
    assert draws.bits(7, "crop").item() == 7770516317277863935
    assert draws.seed_of(7, "student") == 4024117943320303259
    assert draws.permutation(8, 7, "order", 0).tolist() == [2, 0, 5, 3, 4, 1, 7, 6]
    assert draws.beta(0.2, 7, "mixup", 3, torch.tensor([0, 1])).tolist() == [0.9994359165493066, 0.9666781590605409]


def test_tensors_mix_as_unbounded_integers_do():
    key, step = int(draws.bits(1, "stream").item()), 0x9E3779B97F4A7C15
    by_hand = splitmix((splitmix((key + step * 5) % 2**64) + step * 11) % 2**64)
    assert draws.bits(1, "stream", 5, torch.tensor([11])).item() % 2**64 == by_hand
    assert draws.bits(1, "stream", 5, 11).item() % 2**64 == by_hand


def test_a_number_and_a_tensor_of_it_are_the_same_name():
    names: list[int | torch.Tensor] = [3, torch.tensor([3])]
    drawn = {draws.bits(1, "s", first, second, third).item() for first in names for second in names for third in names}
    assert len(drawn) == 1


def test_a_draw_does_not_depend_on_what_is_drawn_beside_it():
    whole = draws.bits(1, "s", 2, INDEX, torch.arange(3)[:, None])
    assert whole.shape == (3, 20_000)
    assert whole[2, 77] == draws.bits(1, "s", 2, 77, 2)
    assert torch.equal(whole[:, 5::7], draws.bits(1, "s", 2, INDEX[5::7], torch.arange(3)[:, None]))


def test_names_are_not_changed_by_drawing():
    index = torch.arange(5)
    draws.bits(1, "s", index, index)
    assert index.tolist() == [0, 1, 2, 3, 4]


def test_every_bit_is_set_half_of_the_time():
    drawn = draws.bits(0, "s", 0, INDEX)
    for place in range(64):
        assert abs(((drawn >> place) & 1).double().mean() - 0.5) < 0.018, place  # 5 standard deviations


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_uniform_draws_are_uniform(seed):
    drawn = draws.uniform(seed, "s", 4, INDEX)
    assert drawn.dtype == torch.float64
    assert 0 <= drawn.min() < drawn.max() < 1
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(drawn * 2**53, (drawn * 2**53).round())


@pytest.mark.parametrize("lag", [1, 2, 128])
def test_neighbours_are_independent(lag):
    drawn = draws.uniform(0, "s", 0, INDEX)
    assert abs(correlation(drawn[:-lag], drawn[lag:])) < 0.036
    cells = (drawn[:-lag] * 8).long() * 8 + (drawn[lag:] * 8).long()
    assert stats.chisquare(cells.bincount(minlength=64).numpy()).pvalue > 1e-3


def test_streams_seeds_and_views_are_independent():
    start = draws.uniform(0, "s", 0, INDEX)
    for other in (draws.uniform(0, "t", 0, INDEX), draws.uniform(1, "s", 0, INDEX), draws.uniform(0, "s", 1, INDEX)):
        assert abs(correlation(start, other)) < 0.036
        # a stream that is another one, shifted, would repeat samples' draws
        assert not torch.isin(start, other).any()


def test_the_order_of_names_matters():
    assert draws.bits(0, "s", 1, 2) != draws.bits(0, "s", 2, 1)


def test_integers_reach_every_value_equally_often():
    drawn = draws.integers(9, 0, "s", 0, INDEX)
    assert stats.chisquare(drawn.bincount(minlength=9).numpy()).pvalue > 1e-3
    assert draws.integers(1, 0, "s", 0, INDEX).unique().tolist() == [0]


def test_integers_take_a_bound_for_each_sample():
    high = torch.tensor([1, 2, 2**31 - 1]).repeat(2000)
    drawn = draws.integers(high, 0, "s", 0, INDEX[:6000])
    assert ((drawn >= 0) & (drawn < high)).all()
    assert drawn[2::3].max() > 0.99 * 2**31
    assert torch.equal(drawn[1::3], draws.integers(2, 0, "s", 0, INDEX[1:6000:3]))


def test_a_permutation_holds_every_number_once():
    drawn = draws.permutation(1001, 5, "order", 0)
    assert torch.equal(drawn.sort().values, torch.arange(1001))
    assert not torch.equal(drawn, draws.permutation(1001, 5, "order", 1))
    assert draws.permutation(0, 5, "order").tolist() == []


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_beta_draws_follow_the_beta_distribution(alpha):
    drawn = draws.beta(alpha, 3, "mixup", 0, INDEX)
    assert 0 < drawn.min() < drawn.max() < 1
    # what lies within 2^-40 of the ends is cut off there
    inner = stats.beta(alpha, alpha).cdf(drawn.numpy())[(drawn > 2**-40) & (drawn < 1 - 2**-40)]
    edge = stats.beta(alpha, alpha).cdf(2.0**-40)
    assert stats.kstest(inner, "uniform", args=(edge, 1 - 2 * edge)).pvalue > 1e-3
    assert abs(drawn.var() - 1 / (4 * (2 * alpha + 1))) < 0.006


def test_beta_of_one_is_uniform_and_of_one_half_the_arcsine():
    assert math.isclose(draws._beta_cdf(1.0, 0.3), 0.3, rel_tol=1e-12)
    assert math.isclose(draws._beta_cdf(0.5, 0.25), 2 / math.pi * math.asin(math.sqrt(0.25)), rel_tol=1e-12)


def test_seeds_are_told_apart_and_fit_torch():
    named: list[tuple[int | str, ...]] = [(1, "a"), ("1", "a"), (1, "b"), (2, "a"), (1,), ("a", 1), (1, "a", 0)]
    seeds = {draws.seed_of(*names) for names in named}
    assert len(seeds) == 7
    for seed in seeds:
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draws.beta(0.3, 1, "s", INDEX)
    draws.permutation(10, 1, "s")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_the_same_bits():
    index = INDEX.cuda()
    assert torch.equal(draws.bits(1, "s", 2, index).cpu(), draws.bits(1, "s", 2, INDEX))
    assert torch.equal(draws.uniform(1, "s", 2, index).cpu(), draws.uniform(1, "s", 2, INDEX))
    assert torch.equal(draws.beta(0.2, 1, "s", 2, index).cpu(), draws.beta(0.2, 1, "s", 2, INDEX))
