"""Which file a budget keeps, and what is said of it, from figures alone."""

import pytest

from distillctl.compress.budget import Candidate, Limits, broken, choose, distance, limits_of, meets, nearest_level, problem
from distillctl.config import BudgetConfig

SIZE = Limits(size_mb=2.0, max_drop=0.01)
ALL = Limits(size_mb=2.0, latency_ms=5.0, macs=1e6, max_drop=0.01)


def file(
    name: str, size: float = 1.0, latency: float | None = 1.0, macs: int = 500_000, drop: float = 0.0, stable: bool = True
) -> Candidate:
    return Candidate(name, name.partition(" ")[2], size, latency, macs, drop, stable)


@pytest.mark.parametrize(
    ("candidates", "limits", "name", "met"),
    [
        ([file("fp32 100%"), file("int8 100%", 0.5)], SIZE, "int8 100%", True),  # equally right: the smaller
        ([file("fp32 100%"), file("int8 100%", 0.5, drop=0.004)], SIZE, "fp32 100%", True),  # the one that loses less
        ([file("fp32 100%", 3.0), file("int8 100%", 0.9, drop=0.02), file("fp32 75%", drop=0.01)], SIZE, "fp32 75%", True),  # just within
        ([file("int8 75%", drop=0.009), file("int8 50%", 0.4)], SIZE, "int8 75%", True),  # the mildest level, not the best
        ([file("fp32 100%", drop=-0.02), file("int8 100%", 0.5, drop=-0.01)], SIZE, "int8 100%", True),  # better than before is no loss
        ([file("fp32 100%", 2.31, drop=0.004), file("int8 100%", 3.0)], SIZE, "fp32 100%", False),  # exceeds least
        ([file("int8 100%", 1.9, drop=0.3), file("fp32 100%", 2.1)], SIZE, "int8 100%", False),  # within what is hard, though it loses
        ([file("int8 100%", 1.9, drop=0.3), file("int8 75%", 1.5, drop=0.2)], SIZE, "int8 75%", False),  # of those the one that loses least
        ([file("a 100%", 2.2), file("b 100%", 1.0, 5.4)], ALL, "b 100%", False),  # 8 % over is nearer than 10 %
        ([file("a 100%", 2.2, 5.1), file("b 100%", 2.1, 5.1)], ALL, "b 100%", False),  # the worst of each counts
        ([file("a 100%", macs=1_000_001)], ALL, "a 100%", False),
        ([file("a 100%", macs=1_000_000)], ALL, "a 100%", True),
    ],
)
def test_what_is_kept(candidates, limits, name, met):
    found = choose(candidates, limits, 300)
    assert (found.name, found.met) == (name, met)


def test_the_sentence_about_a_file_that_meets_it():
    found = choose([file("int8 75%", 0.3004, 0.612, drop=0.004)], ALL, 1300)
    assert found.sentence == (
        "of the mildest level that meets the budget: size 0.3004 MB of 2, p50 0.612 ms of 5, 500 k MACs of 1 M, drop 0.004 of 0.01, "
        "on 1,300 validation images"
    )


def test_the_sentence_about_the_nearest():
    found = choose([file("fp32 100%", 2.31, drop=0.004)], SIZE, 300)
    assert found.sentence == (
        "no candidate meets the budget: the nearest is fp32 100% (size 2.31 MB of 2, drop 0.004 of 0.01, on 300 validation images); "
        "raise budget.size_mb, or take a smaller student"
    )
    found = choose([file("fp32 100%", 2.31, 9.0, drop=0.04, stable=False)], ALL, 300)
    assert "up to 9 ms, not stable here, of 5" in found.sentence
    assert found.sentence.endswith(
        "raise budget.size_mb and budget.latency_ms and budget.max_drop, train longer (distill.epochs=N), or take a smaller student"
    )


def test_rounding_breaks_no_limit():
    assert meets(file("a 100%", drop=0.97 - 0.96), SIZE)
    assert 0.97 - 0.96 > 0.01


def test_what_is_not_asked_is_no_limit():
    assert broken(file("a 100%", 1e9, None, 10**12), Limits(max_drop=0.5)) == []
    assert distance(file("a 100%", 1.0, None), SIZE) == 0.0


def test_a_share_of_macs_is_of_the_students_own():
    assert limits_of(BudgetConfig(macs=0.5), 3_000_000).macs == 1_500_000
    assert limits_of(BudgetConfig(macs=2e6), 3_000_000).macs == 2e6
    assert limits_of(BudgetConfig(size_mb=1.0), None).macs is None


def test_a_level_is_possible_where_one_file_is():
    assert problem([file("fp32 100%", 3.0), file("int8 100%")], SIZE) == ("", 0.0)
    why, over = problem([file("fp32 100%", 4.0), file("int8 100%", 3.0)], SIZE)
    assert why == "int8 100% would have size 3 MB of 2"
    assert over == pytest.approx(0.5)


def test_one_file_has_to_meet_all_of_it():
    why, over = problem([file("fp32 100%", 3.0, 4.0), file("int8 100%", 1.0, 5.5)], ALL)
    assert why == "int8 100% would have at best 5.5 ms of 5"
    assert over == pytest.approx(0.1)


def test_of_equally_near_levels_the_mildest():
    assert nearest_level({"level-75": 0.2, "level-50": 0.1, "level-25": 0.1}) == "level-50"
