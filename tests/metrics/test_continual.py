"""Figures of a sequence of tasks: by hand on small matrices, against the definitions of mammoth and Avalanche restated, and rows from logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillctl.metrics import continual
from distillctl.metrics.continual import by_task

# after task i (rows), on task j: tasks to come are answered a little, task 1 gets better once, task 2 ends better than it was
MATRIX = [
    [0.90, 0.10, 0.05, 0.00],
    [0.95, 0.80, 0.20, 0.10],
    [0.50, 0.60, 0.85, 0.30],
    [0.40, 0.82, 0.55, 0.75],
]
SAMPLES = [100, 50, 200, 150]
UNTRAINED = [0.20, 0.15, 0.10, 0.25]
JOINT = [0.92, 0.90, 0.91, 0.93]


def close(value: float):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


# ------------------------------------------------------------------------------------------------- by hand


def test_final_accuracy_is_the_mean_of_the_last_row():
    assert continual.final_accuracy(MATRIX) == close((0.40 + 0.82 + 0.55 + 0.75) / 4)


def test_incremental_accuracy_is_the_mean_of_what_was_known_after_each_task():
    rows = [0.90, (0.95 + 0.80) / 2, (0.50 + 0.60 + 0.85) / 3, (0.40 + 0.82 + 0.55 + 0.75) / 4]
    assert continual.incremental_accuracy(MATRIX) == close(sum(rows) / 4)


def test_backward_transfer_is_the_end_less_the_moment_of_learning():
    assert continual.backward_transfer(MATRIX) == close(((0.40 - 0.90) + (0.82 - 0.80) + (0.55 - 0.85)) / 3)


def test_forgetting_is_the_best_since_it_was_learnt_less_the_end():
    assert continual.forgetting(MATRIX) == close(((0.95 - 0.40) + (0.80 - 0.82) + (0.85 - 0.55)) / 3)


def test_forgetting_is_below_zero_where_later_tasks_helped_and_mammoths_is_not():
    better = [[0.5, 0.0], [0.7, 0.9]]
    assert continual.forgetting(better) == close(-0.2)
    assert continual.mammoth_forgetting(better) == close(0.0)


def test_forward_transfer_is_what_was_known_before_it_was_learnt_less_the_untrained_net():
    assert continual.forward_transfer(MATRIX, UNTRAINED) == close(((0.10 - 0.15) + (0.20 - 0.10) + (0.30 - 0.25)) / 3)


def test_intransigence_is_all_at_once_less_the_moment_of_learning():
    assert continual.intransigence(MATRIX, JOINT) == close(((0.92 - 0.90) + (0.90 - 0.80) + (0.91 - 0.85) + (0.93 - 0.75)) / 4)


def test_all_figures_of_a_matrix_are_those_functions():
    found = continual.figures(MATRIX, UNTRAINED, JOINT)
    assert found == {
        "final_accuracy": continual.final_accuracy(MATRIX),
        "incremental_accuracy": continual.incremental_accuracy(MATRIX),
        "backward_transfer": continual.backward_transfer(MATRIX),
        "forgetting": continual.forgetting(MATRIX),
        "forward_transfer": continual.forward_transfer(MATRIX, UNTRAINED),
        "intransigence": continual.intransigence(MATRIX, JOINT),
    }
    assert continual.figures(MATRIX).keys() == found.keys() - {"forward_transfer", "intransigence"}


def test_of_all_tasks_at_once_there_is_a_final_accuracy_alone():
    assert continual.figures([JOINT], UNTRAINED, JOINT) == {"final_accuracy": close(sum(JOINT) / 4)}


def test_what_is_needed_and_was_not_measured_is_our_own_mistake():
    with pytest.raises(AssertionError):
        continual.forgetting([[0.9, None], [None, 0.8]])
    assert continual.forgetting([[0.9, None], [0.5, 0.8]]) == close(0.4)


# ------------------------------------------------------------------------------------------------- other people's definitions


def mammoth(results: list[list[float]]) -> dict[str, float]:
    """mammoth, utils/metrics.py: rows are filled up with zeros, the best is over all rows, and the last task counts in none of them."""
    tasks = len(results)
    filled = [row + [0.0] * (len(results[-1]) - len(row)) for row in results]
    backward = [filled[-1][i] - filled[i][i] for i in range(tasks - 1)]
    best = [max(row[i] for row in filled) for i in range(tasks)]
    forgetting = [best[i] - filled[-1][i] for i in range(tasks - 1)]
    forward = [filled[i - 1][i] - UNTRAINED[i] for i in range(1, tasks)]
    return {
        "mean accuracy": sum(filled[-1]) / tasks,
        "backward": sum(backward) / len(backward),
        "forgetting": sum(forgetting) / len(forgetting),
        "forward": sum(forward) / len(forward),
    }


def avalanche(results: list[list[float]]) -> dict[str, float]:
    """Avalanche: forgetting of an experience is first recorded, right after it was learnt, less last; a stream's accuracy counts samples."""
    first = {task: results[task][task] for task in range(len(results))}
    forgetting = [first[task] - results[-1][task] for task in range(len(results) - 1)]
    right = sum(accuracy * count for accuracy, count in zip(results[-1], SAMPLES, strict=True))
    return {"forgetting": sum(forgetting) / len(forgetting), "stream accuracy": right / sum(SAMPLES)}


def test_mammoths_figures_are_ours_but_for_forgetting_which_has_a_name_of_its_own():
    theirs = mammoth(MATRIX)
    assert continual.final_accuracy(MATRIX) == close(theirs["mean accuracy"])
    assert continual.backward_transfer(MATRIX) == close(theirs["backward"])
    assert continual.forward_transfer(MATRIX, UNTRAINED) == close(theirs["forward"])
    assert continual.mammoth_forgetting(MATRIX) == close(theirs["forgetting"])
    assert continual.forgetting(MATRIX) != close(theirs["forgetting"])


def test_mammoth_counts_what_was_never_measured_as_zero():
    short = [[0.9], [0.5, 0.8], [0.6, 0.3, 0.7]]
    assert continual.mammoth_forgetting([[0.9, None, None], [0.5, 0.8, None], [0.6, 0.3, 0.7]]) == close((0.3 + 0.5) / 2)
    assert mammoth([row + [0.0] * (3 - len(row)) for row in short])["forgetting"] == close((0.3 + 0.5) / 2)
    assert continual.mammoth_forgetting(short) == close((0.3 + 0.5) / 2)


def test_mammoth_counts_what_a_net_knew_before_the_task_and_we_do_not():
    guessed = [[0.9, 0.6], [0.9, 0.5]]  # task 2 was answered better before it was learnt
    wider = [[0.9, 0.6, 0.0], [0.9, 0.5, 0.0], [0.9, 0.5, 0.8]]
    assert continual.forgetting(guessed) == close(0.0)
    assert continual.forgetting(wider) == close(0.0)
    assert continual.mammoth_forgetting(wider) == close(0.1 / 2)


def test_avalanches_forgetting_is_our_backward_transfer_with_the_sign_turned():
    assert continual.backward_transfer(MATRIX) == close(-avalanche(MATRIX)["forgetting"])


def test_avalanches_stream_accuracy_counts_samples_and_is_another_figure():
    theirs = avalanche(MATRIX)["stream accuracy"]
    assert theirs == close((0.40 * 100 + 0.82 * 50 + 0.55 * 200 + 0.75 * 150) / 500)
    assert abs(continual.final_accuracy(MATRIX) - theirs) > 0.01


@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n)))
def test_of_any_matrix_forgetting_lies_between_minus_backward_transfer_and_mammoths(matrix):
    ours = continual.forgetting(matrix)
    assert -continual.backward_transfer(matrix) - 1e-12 <= ours <= continual.mammoth_forgetting(matrix) + 1e-12
    assert continual.mammoth_forgetting(matrix) >= 0


# ------------------------------------------------------------------------------------------------- a row out of logits

OWN = ((0, 1), (2, 3), (4,))
#            class:  0    1    2    3    4
LOGITS = torch.tensor(
    [
        [3.0, 1.0, 0.0, 0.0, 9.0],  # task 1, class 0: right among 0-3, and wrong among all
        [0.0, 2.0, 5.0, 0.0, 0.0],  # task 1, class 1: right if the task is told
        [4.0, 2.0, 5.0, 0.0, 0.0],  # task 1, class 1: wrong in any case
        [0.0, 0.0, 0.0, 1.0, 0.5],  # task 2, class 3: right
        [2.0, 0.0, 1.0, 0.0, 0.0],  # task 2, class 2: right if the task is told
        [0.0, 0.0, 0.0, 0.0, 1.0],  # task 3, class 4
    ]
)
TARGETS = torch.tensor([0, 1, 1, 3, 2, 4])
BELONGS = torch.tensor([1, 1, 1, 2, 2, 3])


def test_a_row_has_both_protocols_and_where_answers_go():
    row = by_task(LOGITS, TARGETS, BELONGS, OWN, seen=4, number=2)
    assert row["class_il"] == [close(1 / 3), close(1 / 2), 0.0]
    assert row["task_il"] == [close(2 / 3), close(1.0), close(1.0)]
    assert row["samples"] == [3, 2, 1]
    assert row["answers_of_last_task"] == close(3 / 5)  # of the five samples of tasks 1 and 2: two of class 2, one of class 3


def test_after_the_last_task_all_classes_are_asked():
    row = by_task(LOGITS, TARGETS, BELONGS, OWN, seen=5, number=3)
    assert row["class_il"] == [0.0, close(1 / 2), 1.0]
    assert row["task_il"] == [close(2 / 3), close(1.0), close(1.0)]
    assert row["answers_of_last_task"] == close(2 / 6)


def test_before_any_task_answers_are_among_all_classes_and_none_is_of_the_last_task():
    row = by_task(LOGITS, TARGETS, BELONGS, OWN, seen=0, number=0)
    assert row["class_il"] == by_task(LOGITS, TARGETS, BELONGS, OWN, seen=5, number=3)["class_il"]
    assert "answers_of_last_task" not in row


def test_a_head_that_grows_answers_nothing_of_classes_that_it_does_not_know():
    row = by_task(LOGITS[:, :2], TARGETS, BELONGS, OWN, seen=2, number=1)
    assert row["class_il"] == [close(2 / 3), 0.0, 0.0]
    assert row["task_il"] == [close(2 / 3), 0.0, 0.0]


def test_a_head_that_knows_half_of_a_task_to_come_is_no_mistake():
    row = by_task(LOGITS[:, :3], TARGETS, BELONGS, OWN, seen=2, number=1)
    assert row["task_il"][1] == close(1 / 2)


def test_tasks_of_the_same_classes_are_told_apart_by_where_samples_belong():
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
    row = by_task(logits, torch.tensor([0, 1, 1, 1]), torch.tensor([1, 1, 2, 2]), ((0, 1), (0, 1)), seen=2, number=1)
    assert row["class_il"] == row["task_il"] == [0.5, 0.5]
    assert row["answers_of_last_task"] == 1.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_telling_the_task_never_makes_an_answer_worse(seed, number):
    generator = torch.Generator().manual_seed(seed)
    own = ((0, 1, 2), (3,), (4, 5), (6, 7, 8, 9))
    targets = torch.arange(10).repeat(6)
    logits = torch.randn(60, 10, generator=generator).round()  # ties are common
    belongs = torch.tensor([1, 1, 1, 2, 3, 3, 4, 4, 4, 4]).repeat(6)
    row = by_task(logits, targets, belongs, own, own[number - 1][-1] + 1, number)
    assert all(told >= right for told, right in zip(row["task_il"], row["class_il"], strict=True))
    assert row["task_il"][1] == 1.0  # a task of one class
    assert all(math.isfinite(value) for values in (row["class_il"], row["task_il"]) for value in values)
