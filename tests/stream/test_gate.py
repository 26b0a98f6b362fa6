"""What a gate refuses: a worse accuracy, or one that chance does not explain; on the same samples, one by one."""

import math

import pytest
import torch
from scipy.stats import binomtest

from distillctl.config import StreamStageConfig
from distillctl.metrics.paired import chance_of_no_worse
from distillctl.runs.stream.gate import compared, is_good_enough


@pytest.mark.parametrize("lost", [0, 1, 3, 7, 40])
@pytest.mark.parametrize("won", [0, 1, 5, 40])
def test_the_chance_is_that_of_so_many_heads_or_more(lost, won):
    differ = lost + won
    by_hand = (
        sum(math.factorial(differ) / math.factorial(heads) / math.factorial(differ - heads) for heads in range(lost, differ + 1))
        / 2**differ
    )
    assert chance_of_no_worse(lost, won) == pytest.approx(by_hand, rel=1e-12)
    if differ:
        assert chance_of_no_worse(lost, won) == pytest.approx(binomtest(lost, differ, 0.5, alternative="greater").pvalue, rel=1e-9)


def test_many_samples_are_no_trouble():
    assert chance_of_no_worse(5200, 4800) == pytest.approx(binomtest(5200, 10000, 0.5, alternative="greater").pvalue, rel=1e-9)
    assert chance_of_no_worse(0, 10000) == 1.0


def test_samples_that_both_answer_alike_tell_nothing():
    ours = torch.tensor([True, True, False, False, True, False, False])
    theirs = torch.tensor([True, False, True, True, True, False, True])
    assert compared(ours, theirs) == {"lost": 3, "won": 1, "p": 5 / 16}
    doubled = compared(torch.cat([ours, torch.ones(500).bool()]), torch.cat([theirs, torch.ones(500).bool()]))
    assert doubled == compared(ours, theirs)


def line(lost: int, won: int, n: int = 100) -> dict:
    return {"deployed": 1, "accuracy": 0.5 + (won - lost) / n, "deployed_accuracy": 0.5, "p": chance_of_no_worse(lost, won)}


@pytest.mark.parametrize(
    ("lost", "won", "difference", "significant"),
    [
        (0, 0, True, True),
        (1, 0, False, True),
        (4, 0, False, True),
        (5, 0, False, False),
        (12, 9, False, True),
        (30, 15, False, False),
        (3, 9, True, True),
    ],
)
def test_a_gate_by_significance_lets_pass_what_is_worse_by_luck(lost, won, difference, significant):
    """Five lost and none won come to a model that is no worse in one of 32 cases, four in one of 16."""
    assert is_good_enough(line(lost, won), StreamStageConfig()) == difference
    assert is_good_enough(line(lost, won), StreamStageConfig(gate="significant")) == significant


def test_the_level_says_how_often_a_model_that_is_no_worse_is_refused():
    stage = StreamStageConfig(gate="significant", alpha=1 / 32)
    assert not is_good_enough(line(5, 0), stage)  # exactly one of 32
    assert is_good_enough(line(5, 0), StreamStageConfig(gate="significant", alpha=0.03))


@pytest.mark.parametrize("gate", ["difference", "significant"])
def test_the_first_model_passes_and_one_that_nothing_is_known_of_does_not(gate):
    stage = StreamStageConfig(gate=gate)
    assert is_good_enough({"deployed": None, "accuracy": None, "deployed_accuracy": None}, stage)
    assert not is_good_enough({"deployed": 1, "accuracy": None, "deployed_accuracy": None}, stage)
