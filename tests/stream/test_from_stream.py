"""What a student learns of a batch: by labels, and of which samples its teacher is asked."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from distillctl.losses.weighted import build_loss
from distillctl.models.adapter import Classifier
from distillctl.strategies.memory import Memory
from distillctl.strategies.stream import FromStream
from distillctl.strategies.task import Task
from distillctl.types import Batch, Output

LABELS = {"ce": {"_target_": "distillctl.losses.logits.CrossEntropy"}}
BOTH = {**LABELS, "guided": {"_target_": "distillctl.losses.logits.SoftTargets", "weight": 0.3, "temperature": 2.0}}


class Teacher:
    """Counts what it is asked about."""

    knows = True

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, batch: Batch) -> Output:
        self.asked += batch.index.tolist()
        return Output(torch.zeros(len(batch.index), 2), {})


@pytest.fixture
def made() -> Callable[..., tuple[FromStream, Teacher]]:
    def make(**more) -> tuple[FromStream, Teacher]:
        teacher = Teacher()
        student = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), (0.0,) * 3, (1.0,) * 3)
        memory = Memory(4, 4, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2, 0, lambda inputs, index, view: inputs)
        labels = build_loss(LABELS)
        return FromStream(student, build_loss(BOTH), teacher, alone=labels, task=Task(1, 1, 0, 2, 2), memory=memory, **more), teacher

    return make


def batch(first: int, label: int = 0) -> Batch:
    inputs = torch.full((4, 3, 4, 4), 7, dtype=torch.uint8)
    return Batch(inputs, torch.full((4,), label), torch.arange(first, first + 4), 0, plain=inputs)


def learn(method: FromStream, *batches: Batch) -> list[set[str]]:
    found = []
    for one in batches:
        found.append(set(method(one).parts))
        method.after_step()
    return found


def test_a_teacher_is_asked_of_new_and_kept_samples(made):
    method, teacher = made()
    assert learn(method, batch(0), batch(4)) == [{"ce", "guided"}, {"ce", "guided", "memory ce", "memory guided"}]
    assert sorted(teacher.asked) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7]


def test_or_of_kept_ones_alone(made):
    method, teacher = made(of_new=False)
    assert learn(method, batch(0), batch(4)) == [{"ce"}, {"ce", "memory ce", "memory guided"}]
    assert sorted(teacher.asked) == [0, 1, 2, 3]


def test_a_teacher_that_knows_nothing_is_not_asked(made):
    method, teacher = made()
    teacher.knows = False
    assert learn(method, batch(0), batch(4)) == [{"ce"}, {"ce", "memory ce"}]
    assert teacher.asked == []
    assert not method.can_learn_unlabelled


def test_without_labels_the_teacher_alone_says_what_samples_are(made):
    method, _ = made()
    assert learn(method, batch(0, label=-1)) == [{"guided"}]
    assert method.can_learn_unlabelled


def test_an_emptied_memory_is_as_new(made):
    method, _ = made()
    learn(method, batch(0))
    assert method.memory.filled == 4
    method.memory.empty()
    fresh, _ = made()
    assert method.memory.get_extra_state() | {"steps": 0} == fresh.memory.get_extra_state()
    assert torch.equal(method.memory.targets, fresh.memory.targets)
