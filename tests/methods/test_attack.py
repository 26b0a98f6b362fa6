"""The attack: where it may go, where it starts, and what it leaves alone."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distillctl.config import AttackConfig
from distillctl.losses.logits import cross_entropy, soft_targets
from distillctl.methods.attack import Pgd, ball, starts
from distillctl.models.adapter import Classifier
from distillctl.modes import evaluating
from distillctl.types import Batch, Output

EPS, STEP = 8 / 255, 2 / 255
SHAPE = (3, 4, 4)


def pixels(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def batch(count: int = 5, view: int = 0, classes: int = 3) -> Batch:
    return Batch(pixels(count), torch.arange(count) % classes, torch.arange(count) * 7 + 2, view)


def net(seed: int = 0, classes: int = 3) -> Classifier:
    """With all that a mode changes: batch norm and dropout."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(96, classes)
    return Classifier(nn.Sequential(*layers), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


class Linear(nn.Module):
    """Logits of two classes, z = (w·x + b, 0) times `loudness`, computed in `dtype`."""

    def __init__(self, loudness: float = 1.0, dtype: torch.dtype = torch.float32, shift: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(math.prod(SHAPE), generator=torch.Generator().manual_seed(3)))
        self.loudness, self.dtype, self.shift = loudness, dtype, shift

    def forward(self, images: Tensor) -> Output:
        score = images.flatten(1).to(self.dtype) @ self.weight.to(self.dtype) * self.loudness + self.shift
        return Output(torch.stack([score, torch.zeros_like(score)], 1), {})


def against(targets: Tensor):
    return lambda logits: cross_entropy(logits, targets)


# ------------------------------------------------------------------------------------------------ where it may go
VALUES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 0.5, 2.0**-126, 2.0**-149, 1 - 2.0**-24, EPS, 8 / 256]))
RADII = st.one_of(st.floats(1e-12, 1), st.sampled_from([EPS, 1.0, 0.5, 2.0**-24, 1 / 255, 0.1]))


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(values=st.lists(VALUES, min_size=12, max_size=12), eps=RADII, share=st.floats(0.01, 1), seed=st.integers(0, 99), start=st.booleans())
def test_no_value_goes_too_far_or_leaves_the_unit_range(values, eps, share, seed, start):
    """In exact arithmetic: a float32 that is a rounding error too far is too far."""
    images = torch.tensor(values, dtype=torch.float32).view(1, 3, 2, 2)
    torch.manual_seed(seed)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (0.5,) * 3, (0.5,) * 3)
    draws = starts(torch.tensor([seed]), 0, images.shape, seed) if start else None
    found = Pgd(eps, eps * share, 3).perturb(model, images, against(torch.tensor([seed % 3])), draws)
    assert found.dtype == torch.float32
    for before, after in zip(images.flatten().tolist(), found.flatten().tolist(), strict=True):
        assert 0 <= after <= 1
        assert abs(Fraction(after) - Fraction(before)) <= Fraction(eps)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(value=VALUES, eps=RADII)
def test_the_ball_holds_its_centre_and_little_less_than_it_may(value, eps):
    centre = torch.tensor([value], dtype=torch.float32)
    low, high = (bound.item() for bound in ball(centre, eps))
    assert 0 <= low <= centre.item() <= high <= 1
    assert Fraction(high) - Fraction(centre.item()) <= Fraction(eps)
    assert Fraction(centre.item()) - Fraction(low) <= Fraction(eps)
    assert high >= min(1, centre.item() + eps) - 3e-7
    assert low <= max(0, centre.item() - eps) + 3e-7


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_stored_and_float_images_are_attacked_alike_and_come_back_in_full_precision(precision):
    model, data = net(), batch()
    attack = Pgd(EPS, STEP, 4)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        stored = attack.perturb(model, data.inputs, against(data.targets), attack.draws(data))
        floats = attack.perturb(model, data.inputs.float() / 255, against(data.targets), attack.draws(data))
    assert stored.dtype == torch.float32
    assert torch.equal(stored, floats)
    assert 0.9 * EPS < (stored - data.inputs / 255).abs().max() <= EPS


# ------------------------------------------------------------------------------------------------ what it finds
@pytest.mark.parametrize("start", [True, False])
def test_against_a_linear_net_it_finds_the_worst_there_is(start):
    model, data = Linear(), batch(classes=2)
    attack = Pgd(EPS, STEP, 12, start)
    found = attack.perturb(model, data.inputs, against(data.targets), attack.draws(data))
    away = torch.where(data.targets == 0, -1.0, 1.0)[:, None] * model.weight.sign()
    worst = (data.inputs.flatten(1) / 255 + EPS * away).clamp(0, 1)
    torch.testing.assert_close(found.flatten(1), worst, atol=3e-7, rtol=0)


def test_one_step_is_the_sign_of_the_gradient():
    model, data = net().eval(), batch()
    images = (data.inputs.float() / 255).requires_grad_()
    [gradient] = torch.autograd.grad(cross_entropy(model(images).logits, data.targets), images)
    expected = (images + STEP * gradient.sign()).clamp(0, 1).detach()
    found = Pgd(EPS, STEP, 1, random_start=False).perturb(model, data.inputs, against(data.targets), None)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_more_steps_find_more():
    model, data = net(1).eval(), batch(40)
    losses = []
    for steps in (1, 3, 10):
        attack = Pgd(EPS, EPS / 4, steps, random_start=False)
        losses.append(cross_entropy(model(attack.perturb(model, data.inputs, against(data.targets), None)).logits, data.targets).item())
    assert cross_entropy(model(data.inputs).logits, data.targets).item() < losses[0] < losses[1] <= losses[2]


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 22.0), (torch.float16, 22.0)])
def test_a_sample_that_is_answered_with_confidence_is_attacked_all_the_same(dtype, gap):
    """Its loss, e^-gap, and the gradient of that are zero where 1 - e^-gap is 1: in fp32, and in fp16 even of a sum over samples."""
    model, data = Linear(dtype=dtype, shift=gap), batch(classes=1)
    found = Pgd(EPS, STEP, 12, random_start=False).perturb(model, data.inputs, against(data.targets), None)
    worst = (data.inputs.flatten(1) / 255 - EPS * model.weight.sign()).clamp(0, 1)
    torch.testing.assert_close(found.flatten(1), worst, atol=3e-7, rtol=0)


def test_an_objective_without_slope_moves_nothing():
    model, data = net().eval(), batch()
    same = model(data.inputs).logits.detach()
    found = Pgd(EPS, STEP, 3, random_start=False).perturb(model, data.inputs, lambda logits: logits.sum() * 0, None)
    assert torch.equal(found, data.inputs.float() / 255)
    moved = Pgd(EPS, STEP, 3).perturb(
        model, data.inputs, lambda logits: soft_targets(logits, same, 1.0), starts(data.index, 0, found.shape, 0)
    )
    assert soft_targets(model(moved).logits, same, 1.0) > 1e-3


# ------------------------------------------------------------------------------------------------ what it leaves alone
def test_modes_statistics_and_gradients_stay_as_they_were():
    model, data = net().train(), batch()
    model.net[1].eval()  # a frozen batch norm in a net that trains
    modes = [module.training for module in model.modules()]
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number)
    buffers = [buffer.clone() for buffer in model.buffers()]
    seen = []
    model.net.register_forward_pre_hook(lambda module, inputs: seen.append([part.training for part in module.modules()]))
    Pgd(EPS, STEP, 3).perturb(model, data.inputs, against(data.targets), None)
    assert len(seen) == 3
    assert not any(mode for modes_then in seen for mode in modes_then)
    assert [module.training for module in model.modules()] == modes
    assert all((parameter.grad == number).all() for number, parameter in enumerate(model.parameters()))
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), buffers, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_modes_come_back_after_an_error():
    model = net().train()

    def failing(logits: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Pgd(EPS, STEP, 3).perturb(model, pixels(), failing, None)
    assert all(module.training for module in model.modules())
    with evaluating(model):
        assert not model.training
    assert model.training


def test_the_given_images_are_not_changed_and_the_found_ones_hang_on_no_graph():
    data = batch()
    images = data.inputs.float() / 255
    before = images.clone()
    found = Pgd(EPS, STEP, 2).perturb(net(), images, against(data.targets), starts(data.index, 0, images.shape, 0))
    assert torch.equal(images, before)
    assert not found.requires_grad


# ------------------------------------------------------------------------------------------------ where it starts
def test_the_start_depends_on_nothing_but_seed_view_and_sample():
    attack, data = Pgd(EPS, STEP, 3, seed=5), batch(9, view=4)
    whole = attack.draws(data)
    order = torch.tensor([8, 1, 5])
    assert torch.equal(attack.draws(Batch(data.inputs[order], data.targets[order], data.index[order], 4)), whole[order])
    torch.manual_seed(1)
    assert torch.equal(attack.draws(data), whole)
    for other in (
        Pgd(EPS, STEP, 3, seed=6).draws(data),
        attack.draws(data._replace(view=5)),
        attack.draws(data._replace(index=data.index + 1)),
    ):
        assert (other == whole).float().mean() < 0.01


def test_an_image_is_attacked_alike_in_any_batch():
    attack, model, data = Pgd(EPS, STEP, 5), Linear(), batch(9, classes=2)

    def attacked(rows: slice) -> Tensor:
        part = Batch(data.inputs[rows], data.targets[rows], data.index[rows], data.view)
        return attack.perturb(model, part.inputs, against(part.targets), attack.draws(part))

    assert torch.equal(torch.cat([attacked(slice(0, 2)), attacked(slice(2, 9))]), attacked(slice(0, 9)))


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 5, 3), (3, 1, 1)])
def test_starts_are_uniform(shape):
    count = 60_000 // math.prod(shape)
    drawn = starts(torch.arange(count), -1, torch.Size([count, *shape]), 0).double()
    assert drawn.shape == (count, *shape)
    assert -1 <= drawn.min() < -0.999
    assert 0.999 < drawn.max() < 1
    assert drawn.mean().abs() < 4 / math.sqrt(3 * drawn.numel())
    assert (drawn.square().mean() - 1 / 3).abs() < 4 * math.sqrt(4 / 45 / drawn.numel())
    if math.prod(shape) > 3:
        rows = drawn.flatten(1)
        assert (rows[:, 0] * rows[:, 1]).mean().abs() < 4 / 3 / math.sqrt(count)


def test_without_a_random_start_it_starts_at_the_image():
    assert Pgd(EPS, STEP, 3, random_start=False).draws(batch()) is None


def test_training_and_measuring_differ_in_steps_alone():
    config = AttackConfig(name="pgd", steps=4, eval_steps=9, random_start=False)
    assert Pgd.for_training(config, 3) == Pgd(EPS, STEP, 4, False, 3)
    assert Pgd.for_measuring(config, 3) == Pgd(EPS, STEP, 9, False, 3)
