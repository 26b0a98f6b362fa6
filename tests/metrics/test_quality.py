"""Quality by hand on tiny cases, against scikit-learn, and as properties of any logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from distillctl.metrics import quality

NAN, INF = math.nan, math.inf
BAD_ROWS = [[NAN, 0.0, 1.0], [INF, 0.0, 1.0], [-INF, -INF, -INF], [NAN, NAN, NAN], [INF, -INF, 0.0]]


def sample(n: int = 500, k: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, k] that are right about half of the time."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(k, (n,), generator=generator)
    logits = torch.randn(n, k, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), targets] += 1.5
    return logits, targets


def log_of(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is the rows."""
    return torch.tensor(rows, dtype=torch.float64).log()


@st.composite
def any_logits(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, k = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    value = st.floats(-50, 50, width=32) | st.sampled_from([0.0, 1.0])  # the latter for ties
    rows = st.lists(st.lists(value, min_size=k, max_size=k), min_size=n, max_size=n)
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
    targets = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    return torch.tensor(draw(rows)).to(dtype), torch.tensor(draw(rows)).to(dtype), torch.tensor(targets)


# by hand


def test_two_of_three_answers_are_right():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 2.0, 0.0]])
    targets = torch.tensor([0, 2, 2])
    assert quality.top_k_accuracy(logits, targets, 1) == pytest.approx(2 / 3)
    assert quality.top_k_accuracy(logits, targets, 2) == pytest.approx(2 / 3)
    assert quality.top_k_accuracy(logits, targets, 3) == 1.0


def test_of_equal_logits_the_lowest_index_is_the_answer():
    logits = torch.zeros(4, 4)
    targets = torch.arange(4)
    assert [quality.top_k_accuracy(logits, targets, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert quality.confusion(logits, targets)[:, 0].tolist() == [1, 1, 1, 1]


def test_negative_log_likelihood_is_the_mean_surprise():
    logits = log_of([0.5, 0.5], [0.25, 0.75])
    assert quality.negative_log_likelihood(logits, torch.tensor([0, 0])) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_calibration_error_by_hand():
    # confidences 0.9, 0.9 (one right) and 0.6 (right), in ten bins: |1 - 1.8| / 3 + |1 - 0.6| / 3
    logits = log_of([0.9, 0.1], [0.9, 0.1], [0.6, 0.4])
    assert quality.expected_calibration_error(logits, torch.tensor([0, 1, 0]), bins=10) == pytest.approx((0.8 + 0.4) / 3)
    # in a single bin over- and underconfidence cancel: |2 - 2.4| / 3
    assert quality.expected_calibration_error(logits, torch.tensor([0, 1, 0]), bins=1) == pytest.approx(0.4 / 3)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # softmax of equal logits of four classes is exactly 0.25, the inner edge of four bins: (0, 0.25], with 0.25 < c <= 0.5 beside it
    logits = torch.cat([torch.zeros(1, 4, dtype=torch.float64), log_of([0.4, 0.2, 0.2, 0.2])])
    separate = abs(1 - 0.25) / 2 + abs(0 - 0.4) / 2
    assert quality.expected_calibration_error(logits, torch.tensor([0, 1]), bins=4) == pytest.approx(separate)


def test_as_often_right_as_confident_is_calibrated():
    # 4 of 5 right at confidence 0.8, 3 of 5 at 0.6
    logits = log_of(*[[0.8, 0.2]] * 5, *[[0.6, 0.4]] * 5)
    targets = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1, 1])
    assert quality.expected_calibration_error(logits, targets) == pytest.approx(0, abs=1e-12)


def test_rows_of_the_confusion_are_targets_and_columns_answers():
    logits = torch.eye(3)[[0, 1, 1, 2]]
    assert quality.confusion(logits, torch.tensor([0, 0, 1, 2])).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_per_class_by_hand():
    logits = torch.eye(4)[[0, 1, 1, 2]]
    cat, dog, bird, fish = quality.per_class(logits, torch.tensor([0, 0, 1, 2]), ["cat", "dog", "bird", "fish"])
    assert cat == {"class": "cat", "n": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert dog == {"class": "dog", "n": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert bird == {"class": "bird", "n": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert fish == {"class": "fish", "n": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_a_class_that_never_occurs_does_not_dilute_macro_f1():
    logits, targets = torch.eye(4)[[0, 1, 1, 2]], torch.tensor([0, 0, 1, 2])
    assert quality.macro_f1(logits, targets) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_agreement_counts_equal_answers_right_or_wrong():
    assert quality.agreement(torch.eye(3)[[0, 1, 2, 2]], torch.eye(3)[[0, 1, 1, 2]]) == 0.75


def test_kl_goes_from_the_teacher_to_the_student():
    student, teacher = log_of([0.5, 0.5]), log_of([0.25, 0.75])
    assert quality.kl_to_teacher(student, teacher) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_kl_forgives_what_the_teacher_rules_out_but_not_what_the_student_rules_out():
    sure, open_minded = torch.tensor([[0.0, -INF]]), torch.tensor([[0.0, 0.0]])
    assert quality.kl_to_teacher(student_logits=open_minded, teacher_logits=sure) == pytest.approx(math.log(2))
    assert quality.kl_to_teacher(student_logits=sure, teacher_logits=open_minded) == INF


def test_a_probability_that_underflows_is_not_a_nan():
    assert quality.kl_to_teacher(torch.tensor([[0.0, -INF]]), torch.tensor([[0.0, -2000.0]])) == 0.0


# rows that are no answer


@pytest.mark.parametrize("row", BAD_ROWS, ids=str)
def test_a_row_without_a_softmax_is_as_bad_as_can_be(row):
    logits = torch.tensor([row])
    for target in range(3):
        targets = torch.tensor([target])
        result = quality.all_measures(logits, targets, teacher_logits=logits)
        scores = {"macro_precision": 0.0, "macro_recall": 0.0, "macro_f1": 0.0}
        flips = {"negative_flips": 0.0, "positive_flips": 0.0}
        assert result == {"top1": 0.0, "nll": INF, "ece": 1.0, "brier": 2.0, **scores, "agreement": 0.0, "kl": INF, **flips}
        assert quality.top_k_accuracy(logits, targets, 3) == 0.0
        assert quality.confusion(logits, targets).sum() == 0
        assert quality.per_class(logits, targets, "abc")[target]["n"] == 1


@pytest.mark.parametrize("row", BAD_ROWS, ids=str)
def test_one_bad_row_costs_one_sample(row):
    logits, targets = torch.tensor([[5.0, 0.0, 0.0], row]), torch.tensor([0, 0])
    assert quality.top_k_accuracy(logits, targets, 1) == 0.5
    assert quality.agreement(logits, logits) == 0.5
    first = quality.per_class(logits, targets, "abc")[0]
    assert (first["n"], first["precision"], first["recall"]) == (2, 1.0, 0.5)


def test_a_class_ruled_out_is_an_answer_like_any_other():
    logits, targets = torch.tensor([[-INF, 1.0, 1.0]]), torch.tensor([1])
    assert quality.top_k_accuracy(logits, targets, 1) == 1.0
    assert quality.negative_log_likelihood(logits, targets) == pytest.approx(math.log(2))
    assert quality.negative_log_likelihood(logits, torch.tensor([0])) == INF


# against scikit-learn


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_as_scikit_learn(k):
    logits, targets = sample()
    assert quality.top_k_accuracy(logits, targets, k) == pytest.approx(top_k_accuracy_score(targets, logits, k=k, labels=range(7)))


def test_nll_as_scikit_learn():
    logits, targets = sample()
    assert quality.negative_log_likelihood(logits, targets) == pytest.approx(log_loss(targets, logits.softmax(1), labels=range(7)))


@pytest.mark.parametrize("n", [500, 6])  # with 6 samples some of the 7 classes are missing
def test_confusion_and_f1_as_scikit_learn(n):
    logits, targets = sample(n)
    answers = logits.argmax(1)
    assert quality.confusion(logits, targets).tolist() == confusion_matrix(targets, answers, labels=range(7)).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(targets, answers, labels=range(7), zero_division=0)
    rows = quality.per_class(logits, targets, [f"class {i}" for i in range(7)])
    assert [row["n"] for row in rows] == support.tolist()
    assert [row["precision"] for row in rows] == pytest.approx(precision.tolist())
    assert [row["recall"] for row in rows] == pytest.approx(recall.tolist())
    assert [row["f1"] for row in rows] == pytest.approx(f1.tolist())
    assert quality.macro_f1(logits, targets) == pytest.approx(f1_score(targets, answers, average="macro", zero_division=0))


@pytest.mark.parametrize("n", [500, 6])
def test_macro_precision_and_recall_as_scikit_learn(n):
    logits, targets = sample(n)
    precision, recall, f1, _ = precision_recall_fscore_support(targets, logits.argmax(1), average="macro", zero_division=0)
    assert quality.macro_scores(logits, targets) == pytest.approx((precision, recall, f1))


@pytest.mark.parametrize("k", [2, 7])
def test_the_brier_score_as_scikit_learn(k):
    logits, targets = sample(k=k)
    p = logits.double().softmax(1)
    # its binary score is of one class: what both classes add up to is twice that
    by_class = [brier_score_loss((targets == number).int(), p[:, number]) for number in range(k)]
    assert quality.brier_score(logits, targets) == pytest.approx(sum(by_class))
    if k == 2:
        assert quality.brier_score(logits, targets) == pytest.approx(2 * brier_score_loss(targets, p[:, 1]))


def test_the_brier_score_of_what_is_sure():
    assert quality.brier_score(torch.tensor([[0.0, -INF]]), torch.tensor([0])) == 0.0
    assert quality.brier_score(torch.tensor([[0.0, -INF]]), torch.tensor([1])) == 2.0
    assert quality.brier_score(torch.zeros(1, 4), torch.tensor([2])) == pytest.approx(0.75**2 + 3 * 0.25**2)


def test_flips_by_hand():
    eye = torch.eye(3)
    targets = torch.tensor([0, 0, 0, 1, 2])
    teacher, student = eye[[0, 0, 1, 0, 2]], eye[[0, 1, 0, 2, 2]]
    assert quality.flips(student, teacher, targets) == (pytest.approx(1 / 5), pytest.approx(1 / 5))
    assert quality.flips(teacher, teacher, targets) == (0.0, 0.0)


@settings(deadline=None, max_examples=40)
@given(any_logits())
def test_flips_differ_by_what_accuracies_differ_by(drawn):
    logits, teacher, targets = drawn
    worse, better = quality.flips(logits, teacher, targets)
    gain = quality.top_k_accuracy(logits, targets, 1) - quality.top_k_accuracy(teacher, targets, 1)
    assert better - worse == pytest.approx(gain, abs=1e-12)
    assert worse + better <= 1 - quality.agreement(logits, teacher) + 1e-12


def test_calibration_error_as_a_loop_over_the_bins():
    logits, targets = sample()
    confidence, answers = logits.softmax(1).max(1)
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = (answers == targets)[inside].double().mean() - confidence[inside].mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert expected > 0.01
    assert quality.expected_calibration_error(logits, targets) == pytest.approx(expected)


# of any logits


@settings(deadline=None, max_examples=60)
@given(any_logits())
def test_measures_stay_within_their_bounds(drawn):
    logits, teacher_logits, targets = drawn
    result = quality.all_measures(logits, targets, teacher_logits)
    assert all(type(value) is float for value in result.values())
    assert all(0 <= result[key] <= 1 + 1e-12 for key in result.keys() - {"nll", "kl", "brier"})
    assert 0 <= result["brier"] <= 2 + 1e-12
    assert result["nll"] >= -1e-12
    assert math.isfinite(result["nll"])
    assert result["kl"] >= 0
    assert math.isfinite(result["kl"])


@settings(deadline=None, max_examples=60)
@given(any_logits())
def test_a_student_agrees_with_itself(drawn):
    logits, _, _ = drawn
    assert quality.agreement(logits, logits) == 1.0
    assert quality.kl_to_teacher(logits, logits) == 0.0


@settings(deadline=None, max_examples=60)
@given(any_logits())
def test_top_1_is_the_diagonal_and_top_k_only_grows(drawn):
    logits, _, targets = drawn
    accuracies = [quality.top_k_accuracy(logits, targets, k) for k in range(1, logits.shape[1] + 1)]
    counts = quality.confusion(logits, targets)
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] == 1.0
    assert accuracies[0] == pytest.approx(counts.trace().item() / len(targets))
    assert counts.sum() == len(targets)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 20), st.integers(1, 20), st.integers(2, 6))
def test_constant_confidence_at_the_accuracy_is_calibrated(right, wrong, classes):
    confidence = right / (right + wrong)
    if confidence <= 1 / classes:
        return
    row = [confidence] + [(1 - confidence) / (classes - 1)] * (classes - 1)
    logits, targets = log_of(*[row] * (right + wrong)), torch.tensor([0] * right + [1] * wrong)
    assert quality.expected_calibration_error(logits, targets) == pytest.approx(0, abs=1e-9)


def test_pieces_change_nothing(monkeypatch):
    logits, targets = sample()
    whole = quality.all_measures(logits, targets, logits.flip(0))
    monkeypatch.setattr(quality, "ELEMENTS_AT_ONCE", 7 * 13)  # 13 rows at a time, the last piece shorter
    assert quality.all_measures(logits, targets, logits.flip(0)) == pytest.approx(whole, abs=1e-12)


def test_inputs_are_left_alone():
    logits, targets = sample(20)
    logits.requires_grad_()
    kept, kept_targets = logits.detach().clone(), targets.clone()
    quality.all_measures(logits, targets, logits)
    assert torch.equal(logits, kept)
    assert torch.equal(targets, kept_targets)
    assert logits.grad is None


# what measure names, and what it refuses


def test_top_5_is_named_only_where_it_says_something():
    rest = ["nll", "ece", "brier", "macro_precision", "macro_recall", "macro_f1"]
    assert list(quality.all_measures(*sample(k=5))) == ["top1", *rest]
    assert list(quality.all_measures(*sample(k=6))) == ["top1", "top5", *rest]
    logits, targets = sample(k=6)
    assert list(quality.all_measures(logits, targets, logits))[-4:] == ["agreement", "kl", "negative_flips", "positive_flips"]
    assert list(quality.all_measures(logits, None, logits)) == ["top1", "agreement", "kl"]


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "empty"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), "must be floats of shape"),
        (torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]), "must be floats"),
        (torch.zeros(2, 3), torch.tensor([0, 1, 2]), "class indices of shape"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "float32"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "run from 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-100, 1]), "run from -100 to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(logits, targets, message):
    functions = [
        lambda: quality.top_k_accuracy(logits, targets, 1),
        lambda: quality.negative_log_likelihood(logits, targets),
        lambda: quality.expected_calibration_error(logits, targets),
        lambda: quality.confusion(logits, targets),
        lambda: quality.per_class(logits, targets, "abc"),
        lambda: quality.macro_f1(logits, targets),
        lambda: quality.brier_score(logits, targets),
        lambda: quality.right(logits, targets),
        lambda: quality.all_measures(logits, targets),
    ]
    for function in functions:
        with pytest.raises(ValueError, match=message):
            function()


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 3\] and teacher logits \[2, 4\]"):
        quality.agreement(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must have one shape"):
        quality.kl_to_teacher(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="teacher logits .* empty"):
        quality.agreement(torch.zeros(2, 3), torch.zeros(0, 3))


def test_arguments_out_of_range_are_refused():
    logits, targets = sample(10)
    for k in (0, 8):
        with pytest.raises(ValueError, match=f"k={k} must be between 1 and the 7 classes"):
            quality.top_k_accuracy(logits, targets, k)
    with pytest.raises(ValueError, match="bins=0 must be >= 1"):
        quality.expected_calibration_error(logits, targets, bins=0)
    with pytest.raises(ValueError, match="2 class names for logits of 7 classes"):
        quality.per_class(logits, targets, ["a", "b"])
