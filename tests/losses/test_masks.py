"""Which tokens are real goes with an answer wherever that is taken apart or put together."""

import torch

from distillctl.losses.weighted import WeightedSum
from distillctl.models.adapter import Adapter
from distillctl.models.committee import Committee
from distillctl.strategies.replay import cut
from distillctl.teachers.frozen import Frozen
from distillctl.types import Batch, Output

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])


class Speaker(Adapter):
    """Answers with numbers, and the mask that it is given."""

    def __init__(self):
        super().__init__(torch.nn.Linear(3, 2))

    def forward(self, inputs):
        return Output(self.net(inputs["mask"].float()), {}, mask=inputs["mask"])


class Seen(torch.nn.Module):
    """A term that keeps what it was given."""

    needs_teacher = True

    def forward(self, student, teacher, batch):
        self.given = (student, teacher)
        return student.logits.sum()


def batch() -> Batch:
    return Batch({"mask": MASK}, torch.zeros(3, dtype=torch.int64), torch.arange(3), 0)


def test_to_a_loss():
    term, answer = Seen(), Speaker()({"mask": MASK})
    WeightedSum({"seen": term}, {"seen": 1.0})(answer, answer, batch())
    assert all(torch.equal(given.mask, MASK) for given in term.given)


def test_through_a_teacher_that_answers_in_pieces():
    teacher = Frozen(Speaker(), torch.float32, torch.device("cpu"))
    teacher.micro_batch = 1
    assert torch.equal(teacher(batch()).mask, MASK)


def test_to_each_member_of_an_ensemble():
    answers = Committee({"a": Speaker(), "b": Speaker()}).answers({"mask": MASK})
    assert all(torch.equal(answer.mask, MASK) for answer in answers.values())


def test_to_both_parts_of_a_batch_with_kept_samples():
    first, kept = cut(Speaker()({"mask": MASK}), 2)
    assert torch.equal(first.mask, MASK[:2])
    assert torch.equal(kept.mask, MASK[2:])
    images, _ = cut(Output(torch.zeros(3, 2), {}), 2)
    assert images.mask is None
