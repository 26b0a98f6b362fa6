"""Distillation without data: what the generator learns from, whom a step changes, and that no image or label is looked at."""

import math
import statistics

import pytest
import torch
from torch import nn

from distillctl.errors import ConfigError
from distillctl.inputs.image import Images
from distillctl.loop import FitSettings, fit
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.data_free import DataFree, imbalance, one_hotness, statistics_gap
from distillctl.models.adapter import Classifier
from distillctl.models.generator import Generator, normal
from distillctl.runtime import Runtime
from distillctl.schedules import Constant
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.training import Training
from distillctl.types import Batch, Output

CPU = torch.device("cpu")
IMAGES = Images(tuple("abcde"), 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
PLAYERS = ("generator", "student")


def net(seed: int, norm: type[nn.Module] = nn.BatchNorm2d) -> Classifier:
    torch.manual_seed(seed)
    layers = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 6, 3), norm(6)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )
    model = Classifier(layers, IMAGES.mean, IMAGES.std)
    if norm is nn.BatchNorm2d:
        model.train()(torch.randint(0, 256, (32, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8))
    return model


def frozen(norm: type[nn.Module] = nn.BatchNorm2d) -> Frozen:
    return Frozen(net(1, norm), torch.float32, CPU)


def method(teacher: Frozen | None = None, **given: float) -> DataFree:
    torch.manual_seed(3)
    loss = WeightedSum({"kd": SoftTargets(1.0)}, {"kd": 1.0})
    made = DataFree(net(2), loss, teacher or frozen(), inputs=IMAGES, seed=0, **{"latent": 7, "width": 4, **given})
    made.prepare(Output(torch.zeros(2, 5), {}), None)
    return made.train()


def batch(seed: int = 0, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.randint(0, 5, (size,), generator=generator), torch.arange(size), 0)


def moved(made: DataFree) -> set[str]:
    """Whose parameters have a gradient."""
    return {name.partition(".")[0] for name, parameter in made.named_parameters() if parameter.grad is not None}


# what the generator makes


@pytest.mark.parametrize("size", [8, 28, 33, 1])
def test_images_of_any_size_in_the_unit_range(size):
    images = Generator(7, size, width=4)(torch.randn(3, 7) * 100)
    assert images.shape == (3, 3, size, size)
    assert images.min() >= 0
    assert images.max() <= 1


def test_noise_is_a_function_of_what_can_be_named():
    index = torch.tensor([5, 0, 9])
    whole = normal(7, 1, "noise", index, 3)
    assert whole.shape == (3, 7)
    assert torch.equal(whole[1:2], normal(7, 1, "noise", index[1:2], 3))
    for other in (normal(7, 2, "noise", index, 3), normal(7, 1, "other", index, 3), normal(7, 1, "noise", index, 4)):
        assert not torch.isclose(whole, other).any()


def test_noise_is_normal():
    drawn = normal(100, 0, "noise", torch.arange(200), 0).double()
    assert drawn.isfinite().all()
    assert drawn.mean().item() == pytest.approx(0, abs=0.03)
    assert drawn.std().item() == pytest.approx(1, abs=0.03)
    assert (drawn.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.02)


# what it learns from


def logits(seed: int, count: int = 6, classes: int = 5) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("seed", range(5))
def test_one_hot_and_balance_by_hand(seed):
    values = logits(seed)
    rows = [softmax(row) for row in values.tolist()]
    assert one_hotness(values).item() == pytest.approx(-statistics.mean(math.log(max(row)) for row in rows), rel=1e-9)
    mean = [statistics.mean(column) for column in zip(*rows, strict=True)]
    assert imbalance(values).item() == pytest.approx(math.log(5) + sum(p * math.log(p) for p in mean), rel=1e-9)


def test_balance_is_zero_where_all_classes_are_alike_and_finite_where_one_is_all():
    assert imbalance(torch.eye(5, dtype=torch.float64) * 50).item() == pytest.approx(0, abs=1e-9)
    values = torch.tensor([[1e4, 0.0, 0.0]] * 4, requires_grad=True)
    imbalance(values).backward()
    assert imbalance(values).item() == pytest.approx(math.log(3))
    assert values.grad.isfinite().all()


def test_the_gap_of_statistics_by_hand():
    values = logits(4, 3, 10)  # [C, N]
    mean, variance = torch.tensor([0.1, 0.2, -0.3]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    centres = [statistics.mean(row) for row in values.tolist()]
    spreads = [statistics.pvariance(row) for row in values.tolist()]
    wanted = math.dist(centres, mean.tolist()) + math.dist(spreads, variance.tolist())
    assert statistics_gap(values, mean, variance).item() == pytest.approx(wanted, rel=1e-9)


def test_the_generators_loss_is_the_weighted_sum_over_the_teachers_layers():
    weights = {"bn": 0.5, "one_hot": 2.0, "balance": 3.0, "adversarial": 4.0}
    made = method(**weights)
    images = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        terms = made.judged(images)
        teacher, student = made.teacher.model, made.student.eval()
        layers = teacher.net
        first = layers[0](teacher.prepare(images))
        second = layers[3](layers[2](layers[1](first)))
        gap = sum(
            (x.mean((0, 2, 3)) - layer.running_mean).norm() + (x.var((0, 2, 3), unbiased=False) - layer.running_var).norm()
            for x, layer in ((first, layers[1]), (second, layers[4]))
        )
        p, q = (model(images).logits.double().softmax(1) for model in (teacher, student))
        m = (p + q) / 2
        js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
        answer = teacher(images).logits
    wanted = {"bn": gap, "one_hot": one_hotness(answer), "balance": imbalance(answer), "adversarial": 1 - js / math.log(2)}
    assert terms.parts.keys() == {f"generator.{name}" for name in weights}
    for name, value in wanted.items():
        assert terms.parts[f"generator.{name}"].item() == pytest.approx(weights[name] * float(value), rel=1e-5), name
    assert terms.loss.item() == pytest.approx(sum(part.item() for part in terms.parts.values()), rel=1e-6)


def test_a_teacher_without_batch_norm_has_no_such_term():
    made = method(frozen(nn.Identity))
    assert "generator.bn" not in made(batch(), "generator").parts


def test_a_term_of_weight_zero_is_not_there():
    made = method(adversarial=0.0, bn=0.0)
    assert made(batch(), "generator").parts.keys() == {"generator.one_hot", "generator.balance"}


# whom a step changes


def test_gradients_of_each_player_end_in_its_own_parameters():
    made = method()
    before = {name: value.clone() for name, value in made.student.state_dict().items()}
    made(batch(), "generator").loss.backward()
    assert moved(made) == {"generator"}
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.generator.net[-2].parameters())
    assert all(torch.equal(value, before[name]) for name, value in made.student.state_dict().items())
    assert all(part.training for part in made.student.modules())
    assert all(parameter.requires_grad for parameter in made.student.parameters())
    made.zero_grad(set_to_none=True)
    made(batch(), "student").loss.backward()
    assert moved(made) == {"student"}
    assert all(parameter.grad is None for parameter in made.teacher.model.parameters())


def test_the_adversarial_term_reaches_the_images_through_the_student():
    made = method(bn=0.0, one_hot=0.0, balance=0.0)
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    made.judged(images).loss.backward()
    assert images.grad.abs().sum() > 0
    assert moved(made) == set()


def test_the_players_share_no_parameter_and_leave_none_out():
    made = method()
    mine, theirs = (set(made.trainable(player)) for player in PLAYERS)
    assert mine == set(made.generator.parameters())
    assert not mine & theirs
    assert mine | theirs == set(made.parameters())


@pytest.mark.parametrize("player", PLAYERS)
def test_neither_images_nor_labels_are_looked_at(player):
    one, other = batch(0), batch(1)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(method()(one, player).loss, method()(other._replace(targets=torch.full((8,), 99)), player).loss)


def test_each_player_and_each_epoch_has_noise_of_its_own():
    made, seen = method(), []
    made.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for player in PLAYERS:
        made(batch(), player)
        made(batch()._replace(view=1), player)
    assert all(not torch.equal(one, other) for place, one in enumerate(seen) for other in seen[:place])


def test_a_teacher_comes_out_as_it_went_in_and_the_student_comes_closer():
    teacher = frozen()
    before = fingerprint(teacher.model)
    made = method(teacher)
    images = torch.rand(64, 3, 8, 8)

    def gap() -> float:
        with torch.no_grad():
            return SoftTargets(1.0)(made.student.eval()(images), teacher.model(images), batch()).item()

    start = gap()
    optimizers = {player: torch.optim.Adam(made.trainable(player), lr=0.01) for player in PLAYERS}
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["initial_lr"] = 0.01
    runtime = Runtime(CPU, torch.float32)
    fit(
        Training(made.train(), optimizers, runtime.scaler()),
        lambda epoch, first: (batch()._replace(view=number) for number in range(first, 40)),
        FitSettings(1, 40, 8, 0, Constant()),
        runtime,
        after_step=lambda report: None,
        after_epoch=lambda training, parts: True,
        save=lambda training: None,
        asked_to_stop=lambda: False,
    )
    assert fingerprint(teacher.model) == before
    assert not teacher.model.training
    assert not any(part._forward_pre_hooks for part in teacher.model.modules())
    assert gap() < 0.8 * start


# what a user can get wrong


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"bn": -1.0}, "bn=-1.0 must be >= 0"),
        ({"latent": 0}, "latent=0 must be > 0"),
        ({"bn": 0.0, "one_hot": 0.0, "balance": 0.0, "adversarial": 0.0}, "are all 0"),
    ],
)
def test_a_wrong_number_is_named(given, text):
    with pytest.raises(ValueError, match=text):
        method(**given)


def test_a_loss_that_needs_labels_is_refused():
    with pytest.raises(ConfigError, match=r"loss\.ce needs labels.*loss\.ce\.weight=0"):
        DataFree.check_loss(WeightedSum({"kd": SoftTargets(1.0), "ce": CrossEntropy()}, {"kd": 1.0, "ce": 0.1}))
    DataFree.check_loss(WeightedSum({"kd": SoftTargets(1.0), "ce": CrossEntropy()}, {"kd": 1.0, "ce": 0.0}))


def test_it_is_refused_in_one_line_before_any_training(distillctl, tmp_path):
    finished = distillctl("train", "method=data_free", "loss=kd", cwd=tmp_path)
    assert finished.code == 2
    assert [line for line in finished.err.splitlines() if line] == [
        "error: loss.ce needs labels, and the images of method=data_free have none; set loss.ce.weight=0, or take loss=funmatch"
    ]


def test_the_option_brings_a_loss_without_labels_and_what_is_typed_wins(distillctl, tmp_path):
    shown = distillctl("distill", "method=data_free", "--cfg", "job", cwd=tmp_path).out
    assert "losses.logits.SoftTargets" in shown
    assert "CrossEntropy" not in shown
    assert "torch.optim.AdamW" in shown
    shown = distillctl("distill", "method=data_free", "loss=mse", "optimizer=sgd", "--cfg", "job", cwd=tmp_path).out
    assert "LogitDistance" in shown
    assert "torch.optim.SGD" in shown
