"""Losses on logits against formulas written out in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from distillctl.losses.logits import (
    CrossEntropy,
    SoftTargets,
    binary_cross_entropy,
    binary_divergence,
    cross_entropy,
    hard_teacher,
    jensen_shannon,
    logit_distance,
    reverse_divergence,
    soft_cross_entropy,
    soft_targets,
)
from distillctl.losses.weighted import WeightedSum
from distillctl.types import Batch, Output

TEMPERATURES = (0.5, 1.0, 4.0, 20.0)


def logits(seed: int, count: int = 6, classes: int = 5, scale: float = 3.0) -> Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * scale


def labelled(targets: Tensor) -> Batch:
    return Batch(torch.zeros(len(targets), 3, 1, 1), targets, torch.arange(len(targets)), 0)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def divergence_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T² times the mean over samples of Σ p log(p / q)."""
    total = 0.0
    for ours, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        q, p = softmax([value / temperature for value in ours]), softmax([value / temperature for value in theirs])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_targets_are_what_hinton_wrote(temperature):
    student, teacher = logits(1), logits(2)
    found = soft_targets(student, teacher, temperature).item()
    assert found == pytest.approx(divergence_by_hand(student, teacher, temperature), rel=1e-5)


def test_soft_targets_are_a_mean_over_samples_and_a_sum_over_classes():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    by_hand = -0.5 * (math.log(2 * softmax([2.0, 0.0])[0]) + math.log(2 * softmax([2.0, 0.0])[1]))
    assert soft_targets(student, teacher, 1.0).item() == pytest.approx(by_hand, rel=1e-6)
    assert soft_targets(student.repeat(7, 1), teacher.repeat(7, 1), 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_a_student_that_answers_like_its_teacher_owes_nothing():
    same = logits(3)
    student = same.clone().requires_grad_()
    loss = soft_targets(student, same, 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6
    assert soft_targets(same + 5, same, 4.0).item() == pytest.approx(0, abs=1e-6)  # what is added to every class says nothing


def test_temperature_squared_keeps_the_size_of_the_gradient():
    """Hinton's eq. 4: at high temperature the gradient goes to (z - v) / K of centred logits, whatever T is."""
    student, teacher = logits(4).requires_grad_(), logits(5)
    soft_targets(student, teacher, 1000.0).backward()
    gap = (student - teacher).detach()
    limit = (gap - gap.mean(1, keepdim=True)) / student.shape[1] / len(student)
    torch.testing.assert_close(student.grad, limit, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_is_that_of_finite_differences(temperature):
    student, teacher = logits(6, 3, 4).double().requires_grad_(), logits(7, 3, 4).double()
    assert torch.autograd.gradcheck(lambda z: soft_targets(z, teacher, temperature), (student,))
    soft_targets(student, teacher, temperature).backward()
    ours = student.detach().float().requires_grad_()
    soft_targets(ours, teacher.float(), temperature).backward()
    torch.testing.assert_close(ours.grad, student.grad.float(), rtol=1e-4, atol=1e-6)


def test_the_teacher_gets_no_say_in_the_gradient_of_hard_labels_and_the_student_all_of_it():
    student, targets = logits(8).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    cross_entropy(student, targets).backward()
    by_hand = (student.detach().softmax(1) - torch.eye(5)[targets]) / 6
    torch.testing.assert_close(student.grad, by_hand)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_by_hand(smoothing):
    student, targets = logits(9), torch.tensor([4, 0, 1, 1, 3, 2])
    total = 0.0
    for row, target in zip(student.double().tolist(), targets.tolist(), strict=True):
        log_q = [math.log(value) for value in softmax(row)]
        total -= (1 - smoothing) * log_q[target] + smoothing * sum(log_q) / len(row)
    assert cross_entropy(student, targets, smoothing).item() == pytest.approx(total / 6, rel=1e-5)


def test_mixed_labels_count_by_their_shares():
    student, share = logits(10), 0.3
    own, other = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 4, 2, 3])
    mixed = share * torch.eye(5)[own] + (1 - share) * torch.eye(5)[other]
    by_hand = share * cross_entropy(student, own) + (1 - share) * cross_entropy(student, other)
    torch.testing.assert_close(cross_entropy(student, mixed), by_hand)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1e4, 6e4])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, size):
    student = (torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]]) * size).to(dtype).requires_grad_()
    teacher = (torch.tensor([[-1.0, 1, 0], [-1, 1, 0], [1, 0, -1]]) * size).to(dtype)
    for temperature in (0.5, 1.0, 4.0):
        loss = soft_targets(student, teacher, temperature) + cross_entropy(student, torch.tensor([0, 1, 2]))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_half_precision_answers_are_upcast_before_anything_is_computed():
    student, teacher = logits(11).bfloat16(), logits(12).bfloat16()
    assert torch.equal(soft_targets(student, teacher, 4.0), soft_targets(student.float(), teacher.float(), 4.0))
    with torch.autocast("cpu", torch.bfloat16):
        total = WeightedSum({"kd": SoftTargets(4.0)}, {"kd": 1.0})(
            Output(student, {}), Output(teacher, {}), labelled(torch.zeros(6, dtype=torch.int64))
        )
    assert torch.equal(total.loss, soft_targets(student, teacher, 4.0))


def test_the_parts_of_a_weighted_sum_add_up():
    student, teacher, targets = Output(logits(13), {}), Output(logits(14), {}), torch.tensor([0, 1, 2, 3, 4, 0])
    loss, parts = WeightedSum({"ce": CrossEntropy(0.1), "kd": SoftTargets(2.0)}, {"ce": 0.25, "kd": 3.0})(
        student, teacher, labelled(targets)
    )
    assert set(parts) == {"ce", "kd"}
    torch.testing.assert_close(parts["ce"], 0.25 * cross_entropy(student.logits, targets, 0.1))
    torch.testing.assert_close(parts["kd"], 3.0 * soft_targets(student.logits, teacher.logits, 2.0))
    torch.testing.assert_close(loss, parts["ce"] + parts["kd"])
    assert not any(part.requires_grad for part in parts.values())


class Forbidden(nn.Module):
    needs_teacher = True

    def forward(self, student, teacher, batch):
        raise AssertionError("a term of weight 0 was computed")


def test_a_term_of_weight_zero_is_not_computed_and_asks_for_no_teacher():
    loss = WeightedSum({"ce": CrossEntropy(), "kd": Forbidden()}, {"ce": 1.0, "kd": 0.0})
    assert not loss.needs_teacher
    assert set(loss(Output(logits(15), {}), None, labelled(torch.zeros(6, dtype=torch.int64))).parts) == {"ce"}


def test_parameters_of_a_term_are_the_methods_to_train():
    class Projection(nn.Module):
        needs_teacher = False

        def __init__(self):
            super().__init__()
            self.line = nn.Linear(5, 5)

        def forward(self, student, teacher, batch):
            return self.line(student.logits).square().mean()

    names = [name for name, _ in WeightedSum({"p": Projection()}, {"p": 1.0}).named_parameters()]
    assert names == ["terms.p.line.weight", "terms.p.line.bias"]


def test_a_mean_over_classes_too_is_the_same_loss_by_the_number_of_classes():
    student, teacher = Output(logits(16), {}), Output(logits(17), {})
    found = [
        SoftTargets(2.0, reduction)(student, teacher, labelled(torch.zeros(6, dtype=torch.int64))) for reduction in ("batchmean", "mean")
    ]
    torch.testing.assert_close(found[0], 5 * found[1])
    with pytest.raises(ValueError, match="reduction=sum must be"):
        SoftTargets(2.0, "sum")


def test_no_gradient_reaches_a_teacher_that_could_take_one():
    student, teacher = logits(18).requires_grad_(), logits(19).requires_grad_()
    WeightedSum({"kd": SoftTargets()}, {"kd": 1.0})(
        Output(student, {}), Output(teacher, {}), labelled(torch.zeros(6).long())
    ).loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def rows(student: Tensor, teacher: Tensor, temperature: float) -> list[tuple[list[float], list[float]]]:
    """(student's, teacher's) softened probabilities, sample by sample."""
    soft = [[softmax([value / temperature for value in row]) for row in z.tolist()] for z in (student, teacher)]
    return list(zip(*soft, strict=True))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_other_divergences_are_what_their_names_say(temperature):
    student, teacher = logits(20, 7, 4).double(), logits(21, 7, 4).double()
    cross, reverse, js = 0.0, 0.0, 0.0
    for q, p in rows(student, teacher, temperature):
        cross -= sum(b * math.log(a) for a, b in zip(q, p, strict=True))
        reverse += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
        js += sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in zip(q, p, strict=True)) / 2
    scale = temperature**2 / 7
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(scale * cross, abs=1e-9)
    assert reverse_divergence(student, teacher, temperature).item() == pytest.approx(scale * reverse, abs=1e-9)
    assert jensen_shannon(student, teacher, temperature).item() == pytest.approx(scale * js, abs=1e-9)
    assert soft_targets(student, teacher, temperature).item() == pytest.approx(divergence_by_hand(student, teacher, temperature), abs=1e-9)


def test_the_most_that_two_answers_can_differ_is_one_bit():
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert jensen_shannon(student, teacher, 1.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_several_labels_are_several_questions(temperature):
    student, teacher = logits(22, 5, 3).double(), logits(23, 5, 3).double()
    total = 0.0
    for ours, theirs in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        q, p = 1 / (1 + math.exp(-ours / temperature)), 1 / (1 + math.exp(-theirs / temperature))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert binary_divergence(student, teacher, temperature).item() == pytest.approx(temperature**2 * total / 5, abs=1e-9)


def test_labels_of_several_classes_by_hand():
    student, targets = logits(24, 4, 3).double(), torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    total = 0.0
    for value, target in zip(student.flatten().tolist(), targets.flatten().tolist(), strict=True):
        share = 1 / (1 + math.exp(-value))
        total -= math.log(share) if target else math.log(1 - share)
    assert binary_cross_entropy(student, targets).item() == pytest.approx(total / 4, abs=1e-9)
    own = torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(binary_cross_entropy(student, own), binary_cross_entropy(student, torch.eye(3)[own]))
    smooth = (targets * 0.8 + 0.1).to(student)
    torch.testing.assert_close(binary_cross_entropy(student, targets, 0.2), binary_cross_entropy(student, smooth))


def test_a_hard_teacher_is_a_label():
    student, teacher = logits(25), logits(26)
    assert hard_teacher(student, teacher) == cross_entropy(student, teacher.argmax(1))


def test_the_distance_of_logits_by_hand():
    assert logit_distance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])).item() == (1 + 4 + 9) / 2


@pytest.mark.parametrize("loss", [soft_targets, reverse_divergence, jensen_shannon, binary_divergence])
def test_every_divergence_is_least_where_the_answers_agree(loss):
    teacher = logits(27).double()
    same = teacher.clone().requires_grad_()
    value = loss(same, teacher, 2.0)
    (gradient,) = torch.autograd.grad(value, same)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12
    assert loss(teacher + 0.1 * logits(28), teacher, 2.0) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("loss", [soft_cross_entropy, reverse_divergence, jensen_shannon, binary_divergence])
def test_every_divergence_is_finite_at_extreme_logits(loss, dtype):
    student = (torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]]) * 6e4).to(dtype).requires_grad_()
    teacher = (torch.tensor([[-1.0, 1, 0], [-1, 1, 0], [1, 0, -1]]) * 6e4).to(dtype)
    for temperature in (0.5, 4.0):
        value = loss(student, teacher, temperature)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()
