"""What a classifier's answers are worth.

Every function reads logits [N, K] of any float dtype and computes in float64 on the CPU, so that a result depends on the logits alone.
`N` samples, `K` classes, fractions in [0, 1]. Three rules hold throughout:

- The answer is the class with the largest logit; of equal ones the lowest index. Half-precision logits tie often, and a rule that looked
  at the target would favour or punish them.
- A row with a NaN or +inf, or of nothing but -inf, has no softmax and is no answer: wrong in every accuracy, in agreement with nothing,
  a fully confident error in the calibration and in the Brier score, infinite in negative log-likelihood and KL. Every measure gets worse, none hides it.
- A -inf among finite logits is a class ruled out: its probability is 0.

What cannot be measured (no samples, shapes that do not fit, targets outside 0..K-1) is a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

ELEMENTS_AT_ONCE = 2**21  # held in float64: 16 MiB a temporary, where 50,000 samples of 1,000 classes at once would take 400 MB each
NO_ANSWER = -1

ClassQuality = TypedDict("ClassQuality", {"class": str, "n": int, "precision": float, "recall": float, "f1": float})


def right(logits: Tensor, targets: Tensor) -> Tensor:
    """bool [N] on the CPU: which samples are answered with their target."""
    _check(logits, targets)
    return _answers(logits) == targets.cpu()


def top_k_accuracy(logits: Tensor, targets: Tensor, k: int) -> float:
    """Share of samples whose target is among the k largest logits; of equal logits the lower index comes first."""
    _check(logits, targets)
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k={k} must be between 1 and the {logits.shape[1]} classes")

    def hits(scores: Tensor, target: Tensor) -> Tensor:
        own = scores.gather(1, target[:, None])
        before = torch.arange(scores.shape[1]) < target[:, None]
        rank = ((scores > own) | ((scores == own) & before)).sum(1)
        return (rank < k) & _answered(scores)

    return _per_sample(hits, logits, targets).double().mean().item()


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> float:
    """Mean of -log p(target) in nats; inf as soon as one sample's target is ruled out or one row is no answer."""
    _check(logits, targets)

    def surprise(scores: Tensor, target: Tensor) -> Tensor:
        log_p = scores.log_softmax(1).gather(1, target[:, None]).squeeze(1)
        return torch.where(_answered(scores), -log_p, torch.inf)

    return _per_sample(surprise, logits, targets).mean().item()


def brier_score(logits: Tensor, targets: Tensor) -> float:
    """Brier 1950: the squared distance of the probabilities from the target's one-hot row, summed over classes, mean over samples; in [0, 2]."""
    _check(logits, targets)

    def distance(scores: Tensor, target: Tensor) -> Tensor:
        p = scores.softmax(1)
        # sum_k p_k^2 - 2 p_target + 1, which is 0 to the last bits of an answer that is sure and right
        found = p.square().sum(1) - 2 * p.gather(1, target[:, None]).squeeze(1) + 1
        return torch.where(_answered(scores), found.clamp(min=0), 2.0)

    return _per_sample(distance, logits, targets).mean().item()


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Eq. 3 of Guo et al. 2017: the gap of accuracy and confidence in equal-width bins (low, high], weighted by the samples in each."""
    _check(logits, targets)
    if bins < 1:
        raise ValueError(f"bins={bins} must be >= 1")

    def confidences(scores: Tensor) -> Tensor:
        return torch.where(_answered(scores), scores.softmax(1).amax(1), 1.0)

    confidence = _per_sample(confidences, logits)
    correct = right(logits, targets).double()
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    # n_b / N * |accuracy_b - confidence_b| is |sum of (correct - confidence) in b| / N: no empty bin to divide by
    gaps = torch.bincount(torch.bucketize(confidence, inner_edges), weights=correct - confidence, minlength=bins)
    return gaps.abs().sum().item() / len(targets)


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """int64 [K, K] on the CPU: how many samples of the row's class were answered with the column's.

    No answer has no column: a row with such samples sums to less than its class has.
    """
    _check(logits, targets)
    classes = logits.shape[1]
    answers, targets = _answers(logits), targets.cpu()
    answered = answers != NO_ANSWER
    cells = targets[answered] * classes + answers[answered]
    return torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def per_class(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> list[ClassQuality]:
    """Precision, recall and F1 of each of the K `classes`, in their order; 0 / 0 (a class never answered, or never a target) is 0."""
    _check(logits, targets)
    if len(classes) != logits.shape[1]:
        raise ValueError(f"{len(classes)} class names for logits of {logits.shape[1]} classes")
    n, _, precision, recall, f1 = _class_scores(logits, targets)
    return [
        {"class": name, "n": int(n[i]), "precision": precision[i].item(), "recall": recall[i].item(), "f1": f1[i].item()}
        for i, name in enumerate(classes)
    ]


def macro_f1(logits: Tensor, targets: Tensor) -> float:
    """Plain mean of F1 over the classes that are a target or an answer at least once; the others have no F1 and would only dilute it."""
    return macro_scores(logits, targets)[2]


def macro_scores(logits: Tensor, targets: Tensor) -> tuple[float, float, float]:
    """Plain means of precision, recall and F1 over the same classes: those that are a target or an answer at least once."""
    _check(logits, targets)
    n, answered, *scores = _class_scores(logits, targets)
    precision, recall, f1 = (score[(n + answered) > 0].mean().item() for score in scores)
    return precision, recall, f1


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Share of samples that student and teacher answer alike, right or wrong."""
    _check_pair(student_logits, teacher_logits)
    student, teacher = _answers(student_logits), _answers(teacher_logits)
    return ((student == teacher) & (student != NO_ANSWER)).double().mean().item()


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean over samples of KL(teacher || student) at temperature 1, in nats; inf where the student rules out what the teacher does not."""
    _check_pair(student_logits, teacher_logits)

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
        p = log_p.exp()
        # 0 * log 0 is 0 by continuity, also where p underflows; the sum can come out as -1e-17 for distributions that are nearly equal
        terms = torch.where(p == 0, 0.0, p * (log_p - log_q))
        return torch.where(_answered(student) & _answered(teacher), terms.sum(1).clamp(min=0), torch.inf)

    return _per_sample(divergence, student_logits, teacher_logits).mean().item()


def flips(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Shares of all samples that flip for the worse (the teacher is right, the student wrong) and for the better; Yan et al. 2021.

    Their difference is that of the accuracies, so that a student as good as its teacher may still be wrong where that was right.
    """
    _check_pair(student_logits, teacher_logits)
    student, teacher = right(student_logits, targets), right(teacher_logits, targets)
    return (teacher & ~student).double().mean().item(), (student & ~teacher).double().mean().item()


def all_measures(logits: Tensor, targets: Tensor | None, teacher_logits: Tensor | None = None) -> dict[str, float | None]:
    """All of it in one dict: top1, top5 (only of more than 5 classes), nll, ece, brier, macro_precision, macro_recall, macro_f1, with a
    teacher agreement and kl, and with both labels and a teacher negative_flips and positive_flips.

    Of images without labels (`targets` is None) top1 is None, and only what compares with the teacher is measured.
    """
    result: dict[str, float | None] = {"top1": None}
    if targets is not None:
        result["top1"] = top_k_accuracy(logits, targets, 1)
        if logits.shape[1] > 5:
            result["top5"] = top_k_accuracy(logits, targets, 5)
        result["nll"] = negative_log_likelihood(logits, targets)
        result["ece"] = expected_calibration_error(logits, targets)
        result["brier"] = brier_score(logits, targets)
        result["macro_precision"], result["macro_recall"], result["macro_f1"] = macro_scores(logits, targets)
    if teacher_logits is not None:
        result["agreement"] = agreement(logits, teacher_logits)
        result["kl"] = kl_to_teacher(logits, teacher_logits)
        if targets is not None:
            result["negative_flips"], result["positive_flips"] = flips(logits, teacher_logits, targets)
    return result


def _class_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """n, answered, precision, recall and F1, each [K]; n comes from the targets, so that no answer costs recall."""
    counts = confusion(logits, targets)
    n = torch.bincount(targets.cpu(), minlength=logits.shape[1])
    answered, hits = counts.sum(0), counts.diagonal().double()
    # hits / 0 is always 0 / 0 here: no hit without a target and an answer
    return n, answered, hits / answered.clamp(min=1), hits / n.clamp(min=1), 2 * hits / (n + answered).clamp(min=1)


def _answers(logits: Tensor) -> Tensor:
    """int64 [N] on the CPU: the class answered, or NO_ANSWER."""
    return _per_sample(lambda scores: torch.where(_answered(scores), scores.argmax(1), NO_ANSWER), logits)


def _answered(scores: Tensor) -> Tensor:
    """bool [N]: the row has a softmax. A NaN or +inf shows in the maximum, as does a row of -inf."""
    return scores.amax(1).isfinite()


def _per_sample(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of pieces of the rows, on the CPU and floats in float64, joined to [N]."""
    rows = max(1, ELEMENTS_AT_ONCE // tensors[0].shape[1])
    results = []
    for start in range(0, len(tensors[0]), rows):
        pieces = (tensor[start : start + rows].detach().cpu() for tensor in tensors)
        results.append(function(*(piece.double() if piece.is_floating_point() else piece.long() for piece in pieces)))
    return torch.cat(results)


def _check(logits: Tensor, targets: Tensor) -> None:
    _check_logits("logits", logits)
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool or targets.shape != logits.shape[:1]:
        raise ValueError(f"targets must be class indices of shape [{len(logits)}], not {targets.dtype} {list(targets.shape)}")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"targets run from {low} to {high}, but the logits have classes 0 to {logits.shape[1] - 1}")


def _check_pair(student_logits: Tensor, teacher_logits: Tensor) -> None:
    _check_logits("student logits", student_logits)
    _check_logits("teacher logits", teacher_logits)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {list(student_logits.shape)} and teacher logits {list(teacher_logits.shape)} must have one shape")


def _check_logits(name: str, logits: Tensor) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"{name} must be floats of shape [N, K], not {logits.dtype} {list(logits.shape)}")
    if logits.numel() == 0:
        raise ValueError(f"{name} {list(logits.shape)} are empty: nothing to measure")
