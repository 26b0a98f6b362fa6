"""What a sequence of tasks leaves behind: the matrix R[i][j], accuracy on task j after task i, and what is read off it.

N tasks, numbered from 1 here and from 0 in lists. Two protocols, always of one run: class-IL, where the answer is the largest logit of all classes
that came so far, and task-IL, where it is that of the task's own classes, as if somebody told which task a sample belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Matrix = Sequence[Sequence[float | None]]  # a row after each task; None where nothing was measured


def by_task(logits: Tensor, targets: Tensor, belongs: Tensor, own: Sequence[Sequence[int]], seen: int, number: int) -> dict[str, Any]:
    """A row of the matrix under both protocols, and where wrong answers go.

    logits [n, K], targets int64 [n], belongs int64 [n]: the task of each sample, from 1; own: the classes of each task; seen: classes that came so
    far; number: of tasks that were learnt, 0 of a net that has learnt none, whose answers are among all classes.

    A head that does not know a class yet answers none of its samples. Class-IL of a task to come is 0 unless its classes have come already.
    """
    known = logits.shape[1]
    row: dict[str, Any] = {"class_il": [], "task_il": [], "samples": []}
    among_seen = masked(logits, range(min(seen or known, known))).argmax(1)
    for place, classes in enumerate(own, start=1):
        at = (belongs == place).nonzero().flatten()
        there = [label for label in classes if label < known]
        right = (among_seen[at] == targets[at]).double().mean().item()
        told = (masked(logits[at], there).argmax(1) == targets[at]).double().mean().item() if there else 0.0
        assert told >= right or len(there) < len(classes) or number < place, "knowing the task cannot make an answer worse"
        row["class_il"].append(right)
        row["task_il"].append(told)
        row["samples"].append(len(at))
    if number:
        so_far = belongs <= number
        last = torch.isin(among_seen[so_far], torch.tensor(list(own[number - 1])))
        row["answers_of_last_task"] = last.double().mean().item()
    return row


def masked(logits: Tensor, classes: Sequence[int] | range) -> Tensor:
    """The logits with every other class ruled out."""
    allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
    allowed[list(classes)] = True
    return logits.masked_fill(~allowed, -torch.inf)


def final_accuracy(matrix: Matrix) -> float:
    """Mean over tasks of the last row, each task counting alike: mammoth's "mean accuracy". Avalanche's stream accuracy counts samples alike."""
    return mean(row_of(matrix, len(matrix)))


def incremental_accuracy(matrix: Matrix) -> float:
    """Mean over i of the mean accuracy on tasks 1 to i after task i: the headline of iCaRL and PyCIL ("average incremental accuracy")."""
    return mean([mean(row_of(matrix, number)[:number]) for number in range(1, len(matrix) + 1)])


def backward_transfer(matrix: Matrix) -> float:
    """Mean over j < N of R[N][j] - R[j][j] (Lopez-Paz & Ranzato 2017; mammoth). Avalanche's forgetting, meant over past tasks, is its negative."""
    last = row_of(matrix, len(matrix))
    return mean([last[place] - value(matrix, place + 1, place) for place in range(len(matrix) - 1)])


def forgetting(matrix: Matrix) -> float:
    """Mean over j < N of the best of R[j..N-1][j] less R[N][j] (Chaudhry et al. 2018): negative where later tasks helped.

    mammoth takes the best over all rows, the last and those before the task included, and so is never negative.
    """
    last = row_of(matrix, len(matrix))
    return mean(
        [max(value(matrix, number, place) for number in range(place + 1, len(matrix))) - last[place] for place in range(len(matrix) - 1)]
    )


def forward_transfer(matrix: Matrix, untrained: Sequence[float]) -> float:
    """Mean over j >= 2 of R[j-1][j] - r_j, r_j the accuracy of the net before any task (Lopez-Paz & Ranzato 2017; mammoth)."""
    return mean([value(matrix, place, place) - untrained[place] for place in range(1, len(matrix))])


def intransigence(matrix: Matrix, joint: Sequence[float]) -> float:
    """Mean over j of joint_j - R[j][j]: what learning in turn costs on the task just learnt, beside a net that learnt all at once."""
    return mean([joint[place] - value(matrix, place + 1, place) for place in range(len(matrix))])


def mammoth_forgetting(matrix: Matrix) -> float:
    """As mammoth has it: the best over all rows, what was never measured counting 0, less the last; mean over j < N."""
    last = row_of(matrix, len(matrix))
    best = [max((row[place] if place < len(row) else None) or 0.0 for row in matrix) for place in range(len(matrix))]
    return mean([best[place] - last[place] for place in range(len(matrix) - 1)])


def figures(matrix: Matrix, untrained: Sequence[float] | None = None, joint: Sequence[float] | None = None) -> dict[str, float]:
    """All that a matrix says; of one row, which is all tasks at once, the final accuracy alone."""
    found = {"final_accuracy": mean(row_of(matrix, len(matrix))) if len(matrix) > 1 else mean(list(matrix[0]))}  # type: ignore[arg-type]
    if len(matrix) > 1:
        found |= {
            "incremental_accuracy": incremental_accuracy(matrix),
            "backward_transfer": backward_transfer(matrix),
            "forgetting": forgetting(matrix),
        }
        if untrained is not None:
            found["forward_transfer"] = forward_transfer(matrix, untrained)
        if joint is not None:
            found["intransigence"] = intransigence(matrix, joint)
    return found


def row_of(matrix: Matrix, number: int) -> list[float]:
    return [value(matrix, number, place) for place in range(len(matrix))]


def value(matrix: Matrix, number: int, place: int) -> float:
    found = matrix[number - 1][place]
    assert found is not None, (number, place)
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
