"""Several teachers: how their answers become one, and that each sees images and classes in its own way."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distillctl.config import MemberConfig, TeacherConfig
from distillctl.errors import ConfigError
from distillctl.losses.features import AttentionTransfer
from distillctl.losses.logits import CrossEntropy, ReverseDivergence, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.metrics import cost
from distillctl.models.adapter import Classifier
from distillctl.models.committee import Committee, mixture, taps_of
from distillctl.models.taps import tap
from distillctl.models.trace import pixels
from distillctl.runs.teachers import temperature_of
from distillctl.teachers.ensemble import Ensemble, certainty, confidence
from distillctl.teachers.frozen import fingerprint
from distillctl.types import Batch, Output

CPU = torch.device("cpu")
MEMBERS, SAMPLES, CLASSES = 3, 8, 5
COMBINATIONS = ("mean_probability", "mean_logit", "mean_loss", "confidence", "entropy", "fixed")
SHARES = {"a": 1.0, "b": 0.0, "c": 3.0}
STATISTICS = {"a": ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), "b": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "c": ((0.1, 0.2, 0.9), (0.5, 0.5, 0.5))}


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )
    return nn.Sequential(*layers)


def batch(soft: bool = False) -> Batch:
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, 3, 8, 8), dtype=torch.uint8, generator=source)
    targets = torch.randint(0, CLASSES, (SAMPLES,), generator=source)
    if soft:
        targets = 0.6 * torch.eye(CLASSES)[targets] + 0.4 * torch.eye(CLASSES)[(targets + 1) % CLASSES]
    return Batch(images, targets, torch.arange(SAMPLES), 0)


def nets() -> dict[str, nn.Module]:
    return {name: net(seed) for seed, name in enumerate("abc", start=1)}


def committee(**more) -> Committee:
    return Committee({name: Classifier(each, *STATISTICS[name]) for name, each in nets().items()}, **more)


def ensemble(combine: str, temperature: float = 4.0, precision: torch.dtype = torch.float32, **more) -> Ensemble:
    weights = SHARES if combine == "fixed" else None
    return Ensemble(committee(weights=weights, **more), precision, CPU, combine=combine, temperature=lambda: temperature)


def logits(seed: int = 0, scale: float = 4.0) -> Tensor:
    return scale * torch.randn(MEMBERS, SAMPLES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------- an independent statement of the formulas
def probabilities(values: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(values / temperature - (values / temperature).max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_confidence(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[M, B], sample by sample; targets [B, K]."""
    found = np.zeros(values.shape[:2])
    for sample in range(values.shape[1]):
        errors = [-(targets[sample] * np.log(probabilities(member[sample], 1.0))).sum() for member in values]
        worse = np.exp(errors) / np.exp(errors).sum()
        found[:, sample] = (1 - worse) / (len(values) - 1)
    return found


def by_certainty(values: np.ndarray) -> np.ndarray:
    p = probabilities(values, 1.0)
    surer = np.exp((p * np.log(p)).sum(-1))
    return surer / surer.sum(0)


def mixed(values: np.ndarray, weights: np.ndarray, temperature: float) -> np.ndarray:
    """The mixture's probabilities at T."""
    return (weights.reshape(len(values), -1, 1) * probabilities(values, temperature)).sum(0)


def as_shares(targets: Tensor) -> np.ndarray:
    return (targets if targets.is_floating_point() else torch.eye(CLASSES)[targets]).double().numpy()


# ------------------------------------------------------------------------------------------------------- the formulas
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("each_sample", [False, True])
def test_a_mixture_at_the_loss_s_temperature_is_exactly_the_mixture_of_softened_answers(temperature, each_sample):
    values = logits()
    shape = (MEMBERS, SAMPLES) if each_sample else (MEMBERS,)
    weights = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights = weights / weights.sum(0)
    found = (mixture(values, weights, temperature) / temperature).softmax(1)
    np.testing.assert_allclose(found.numpy(), mixed(values.numpy(), weights.numpy(), temperature), atol=1e-9)


def test_a_member_of_weight_zero_says_nothing():
    values = logits()
    found = mixture(values, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(found.softmax(1), values[1].softmax(1), rtol=0, atol=1e-12)
    assert found.isfinite().all()


@pytest.mark.parametrize("soft", [False, True])
def test_confidence_is_that_of_the_paper(soft):
    values, targets = logits(), batch(soft).targets
    expected = by_confidence(values.numpy(), as_shares(targets))
    np.testing.assert_allclose(confidence(values, targets).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(confidence(values, targets).sum(0).numpy(), 1, atol=1e-12)


def test_confidence_leaves_out_who_is_wrong():
    targets = torch.zeros(2, dtype=torch.int64)
    right, wrong = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([0.0, 9.0, 0.0])
    values = torch.stack([torch.stack([right, wrong]), torch.stack([wrong, right])])
    torch.testing.assert_close(confidence(values, targets), torch.eye(2), rtol=0, atol=1e-3)


def test_one_member_has_all_the_confidence_there_is():
    assert torch.equal(confidence(logits()[:1], batch().targets), torch.ones(1, SAMPLES, dtype=torch.float64))


def test_certainty_is_a_softmax_of_negative_entropies():
    values = logits()
    np.testing.assert_allclose(certainty(values).numpy(), by_certainty(values.numpy()), atol=1e-9)
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.zeros(1, 3)
    assert (certainty(torch.stack([sure, unsure]))[:, 0].diff() < 0).all()


@pytest.mark.parametrize("combine", ["mean_probability", "confidence", "entropy", "fixed", "mean_logit"])
def test_extreme_answers_stay_finite(combine):
    guide, values = ensemble(combine), logits(scale=1e4).float()
    assert guide.combined(values, batch().targets).isfinite().all()


# ------------------------------------------------------------------------------------------------------ whole answers
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_an_ensemble_combines_what_its_members_answer(combine, soft):
    guide, data = ensemble(combine), batch(soft)
    answers = guide.model.answers(data.inputs)
    values = torch.stack([answer.logits for answer in answers.values()]).double().detach().numpy()
    alike = np.full(MEMBERS, 1 / MEMBERS)
    weights = {
        "confidence": by_confidence(values, as_shares(data.targets)),
        "entropy": by_certainty(values),
        "fixed": np.array([0.25, 0.0, 0.75]),
    }.get(combine, alike)
    found = guide(data)
    if combine == "mean_logit":
        np.testing.assert_allclose(found.logits.numpy(), values.mean(0), atol=1e-5)
    else:
        np.testing.assert_allclose((found.logits / 4).softmax(1).numpy(), mixed(values, weights, 4.0), atol=1e-5)
    assert len(found.members) == (MEMBERS if combine == "mean_loss" else 0)
    assert found.logits.dtype == torch.float32
    assert not found.logits.is_inference()


def test_the_mean_for_measuring_is_of_probabilities_at_temperature_one():
    model, data = committee().eval(), batch()
    each = torch.stack([answer.logits for answer in model.answers(data.inputs).values()])
    torch.testing.assert_close(model(data.inputs).logits.exp(), each.softmax(2).mean(0))


def by_hand(name: str, images: Tensor, size: int | None = None) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS[name])
    seen = (images.float() / 255 - mean) / std
    if size is not None:
        seen = nn.functional.interpolate(seen, (size, size), mode="bilinear", antialias=True)
    return nets()[name].eval()(seen)


def test_each_member_sees_images_normalised_by_its_own_statistics():
    data = batch()
    found = ensemble("mean_loss")(data).members
    for name, answer in zip("abc", found, strict=True):
        torch.testing.assert_close(answer.logits, by_hand(name, data.inputs), rtol=1e-4, atol=1e-5)


def test_each_member_sees_images_at_its_own_resolution():
    data = batch()
    members = {"a": Classifier(nets()["a"], *STATISTICS["a"]), "b": Classifier(nets()["b"], *STATISTICS["b"], resolution=12)}
    guide = Ensemble(Committee(members), torch.float32, CPU, combine="mean_loss")
    small, large = guide(data).members
    torch.testing.assert_close(small.logits, by_hand("a", data.inputs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(large.logits, by_hand("b", data.inputs, 12), rtol=1e-4, atol=1e-5)


def test_a_member_with_another_order_of_classes_is_put_into_ours():
    order = [3, 0, 4, 1, 2]  # where each of our classes is in what it answers
    members = {name: Classifier(each, *STATISTICS["b"]) for name, each in nets().items()}
    data = batch()
    plain = Ensemble(Committee(members), torch.float32, CPU, combine="mean_loss")(data)
    moved = Ensemble(Committee(members, {"b": order}), torch.float32, CPU, combine="mean_loss")(data)
    assert torch.equal(moved.members[1].logits, plain.members[1].logits[:, order])
    assert torch.equal(moved.features["b.logits"], plain.members[1].logits[:, order])
    for other in (0, 2):
        assert torch.equal(moved.members[other].logits, plain.members[other].logits)


def test_features_are_named_by_their_member():
    each, data = nets(), batch()
    members = {name: Classifier(each[name], *STATISTICS[name], taps=tap(each[name], ["1"], pixels(8), name)) for name in "ab"}
    found = Ensemble(Committee(members), torch.float32, CPU)(data).features
    assert set(found) == {"a.1", "b.1", "a.logits", "b.logits"}
    alone = members["b"].eval()(data.inputs).features["1"]
    torch.testing.assert_close(found["b.1"], alone.detach())
    assert not found["b.1"].is_inference()


def test_taps_find_their_members():
    config = TeacherConfig(name="ensemble", members={"a": MemberConfig(), "b": MemberConfig()})
    assert taps_of(config.members, ["b.stage1", "a.layer1.0", "logits", "b.pooled"]) == {"a": ("layer1.0",), "b": ("stage1", "pooled")}
    for wrong in ("stage1", "c.stage1"):
        with pytest.raises(ConfigError, match=rf"no tap '{wrong}'.*a\.stage1; members: a, b"):
            taps_of(config.members, [wrong])


# ------------------------------------------------------------------------------------------------------ in training
def gradient(loss: WeightedSum, guide: Output) -> tuple[Tensor, Tensor]:
    """Value, and gradient into a student's logits, in float64."""
    student = logits(seed=9)[0].requires_grad_()
    value = loss(Output(student, {}), guide, batch()).loss
    value.backward()
    return value.detach(), student.grad


def test_the_mean_of_the_losses_has_the_gradient_of_the_loss_on_the_mean_for_forward_kl():
    values, loss = logits(), WeightedSum({"kd": SoftTargets(3.0)}, {"kd": 0.9})
    whole = mixture(values, torch.full((MEMBERS,), 1 / MEMBERS), 3.0)
    one = gradient(loss, Output(whole, {}))
    each = gradient(loss, Output(whole, {}, tuple(Output(value, {}) for value in values)))
    torch.testing.assert_close(each[1], one[1], rtol=0, atol=1e-9)
    assert each[0] > one[0] + 1e-3  # by what the members disagree


def test_the_mean_of_other_losses_is_another_lesson():
    values, loss = logits(), WeightedSum({"reverse": ReverseDivergence(3.0)}, {"reverse": 1.0})
    whole = mixture(values, torch.full((MEMBERS,), 1 / MEMBERS), 3.0)
    one = gradient(loss, Output(whole, {}))
    each = gradient(loss, Output(whole, {}, tuple(Output(value, {}) for value in values)))
    expected = torch.stack([gradient(loss, Output(value, {}))[1] for value in values]).mean(0)
    torch.testing.assert_close(each[1], expected, rtol=0, atol=1e-9)
    assert not torch.allclose(each[1], one[1], atol=1e-3)


def test_labels_and_features_are_looked_at_once_whatever_the_members():
    features = {"stage1": torch.rand(SAMPLES, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
    guide = Output(logits()[0], {"a.stage1": features["stage1"] + 1}, tuple(Output(value, {}) for value in logits()))
    loss = WeightedSum({"ce": CrossEntropy(), "at": AttentionTransfer(["stage1"], ["a.stage1"])}, {"ce": 1.0, "at": 1.0})
    student = Output(logits(seed=9)[0], features)
    together, alone = loss(student, guide, batch()), loss(student, guide._replace(members=()), batch())
    assert torch.equal(together.loss, alone.loss)
    assert together.parts["at"] > 0


def test_no_gradient_reaches_a_member():
    values = logits().requires_grad_()
    guide = Output(values.mean(0), {}, tuple(Output(value, {}) for value in values))
    student = logits(seed=9)[0].requires_grad_()
    WeightedSum({"kd": SoftTargets()}, {"kd": 1.0})(Output(student, {}), guide, batch()).loss.backward()
    assert values.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_a_student_leaves_all_members_bit_for_bit_as_they_were(combine, precision):
    guide = ensemble(combine, precision=precision, orders={"c": [4, 3, 2, 1, 0]})
    before = fingerprint(guide.model)
    loss = WeightedSum({"ce": CrossEntropy(), "kd": SoftTargets(4.0)}, {"ce": 0.5, "kd": 0.5})
    method = Distill(Classifier(net(7), (0, 0, 0), (1, 1, 1)), loss, guide).train()
    optimizer = torch.optim.SGD(method.trainable("student"), lr=0.1, momentum=0.9, weight_decay=1e-2)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        terms = method(batch())
        terms.loss.backward()
        optimizer.step()
        values.append(terms.loss.item())
    assert values[-1] < values[0]
    assert fingerprint(guide.model) == before
    assert not any(module.training for module in guide.model.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in guide.model.parameters())
    assert all(name.startswith("student.") for name in method.state_dict())
    theirs = {id(parameter) for parameter in guide.model.parameters()}
    assert not theirs & {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def test_the_temperature_is_what_the_loss_softens_by_at_that_moment():
    term = SoftTargets(2.0)
    loss = WeightedSum({"ce": CrossEntropy(), "kd": term}, {"ce": 0.1, "kd": 0.9})
    assert temperature_of(loss) == 2.0
    term.temperature = 5.0
    assert temperature_of(loss) == 5.0
    assert temperature_of(WeightedSum({"ce": CrossEntropy()}, {"ce": 1.0})) == 1.0


def test_a_committee_costs_what_its_members_cost_together():
    model, example = committee(orders={"a": [1, 0, 2, 3, 4]}), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for measured in (cost.parameters, cost.size_mb, lambda module: cost.macs(module, example)):
        assert measured(model) == pytest.approx(sum(measured(member) for member in model.members))


def test_a_generator_learns_through_a_committee():
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    committee().eval().requires_grad_(False)(images).logits[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0
