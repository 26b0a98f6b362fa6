"""Accuracy before learning: in all, in a window, fading; against the sums written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.metrics.prequential import Prequential


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 20), st.floats(0.5, 1.0))
def test_all_three_are_the_sums_of_their_definitions(answers: list[bool], window: int, fading: float):
    score = Prequential(window, fading)
    score.add(answers)
    weights = [fading ** (len(answers) - 1 - place) for place in range(len(answers))]
    found = score.figures()
    assert found["prequential"] == pytest.approx(sum(answers) / len(answers))
    assert found["windowed"] == pytest.approx(sum(answers[-window:]) / len(answers[-window:]))
    assert found["fading"] == pytest.approx(sum(weight * answer for weight, answer in zip(weights, answers, strict=True)) / sum(weights))


def test_by_hand():
    score = Prequential(window=2, fading=0.5)
    score.add([True, True, False])
    assert score.figures() == {"prequential": 2 / 3, "windowed": 0.5, "fading": (0 + 0.5 + 0.25) / 1.75}


def test_nothing_is_known_before_the_first_answer():
    assert Prequential(10, 0.9).figures() == {"prequential": None, "windowed": None, "fading": None}


@given(st.lists(st.booleans(), max_size=40), st.lists(st.booleans(), max_size=40))
def test_a_saved_one_goes_on_bit_for_bit(before: list[bool], after: list[bool]):
    whole, first, second = (Prequential(7, 0.97) for _ in range(3))
    whole.add([*before, *after])
    first.add(before)
    second.load(first.state())
    second.add(after)
    assert second.state() == whole.state()
    assert second.figures() == whole.figures()
