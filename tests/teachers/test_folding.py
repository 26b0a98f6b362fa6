"""Batch norm goes into the convolution before it, and nothing else changes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distillctl.config import ModelConfig
from distillctl.errors import DataError
from distillctl.models.adapter import Classifier
from distillctl.models.committee import Committee
from distillctl.models.net import build_net
from distillctl.models.taps import tap
from distillctl.models.trace import pixels
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.folding import fold, folded
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.types import Batch

CPU = torch.device("cpu")


def lived(net: nn.Module) -> nn.Module:
    """With statistics, scales and shifts that matter."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.running_mean is not None:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
            if part.weight is not None:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
    return net.eval().requires_grad_(False)


def norms(model: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())


def images(count: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 8, size: int = 8) -> Batch:
    return Batch(images(count, size), torch.zeros(count, dtype=torch.int64), torch.arange(count), 0)


def classifier(*layers: nn.Module, taps: tuple[str, ...] = ()) -> Classifier:
    net = lived(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    return Classifier(net, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), taps=tap(net, taps, pixels(8), "teacher") if taps else None).eval()


def conv(channels: int = 3, **more: int | bool) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 3, padding=1, **more)  # type: ignore[arg-type]


class Tree(nn.Module):
    """A convolution whose answer goes two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        raw = self.conv(inputs)
        return self.norm(raw) + raw


class Twice(nn.Module):
    """One convolution in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = conv(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.one(self.conv(inputs)) * self.other(self.conv(inputs.flip(-1)))


class Scaled(nn.Conv2d):
    """Does more with its weight than nn.Conv2d."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self._conv_forward(inputs, self.weight / self.weight.norm(), self.bias)


# ------------------------------------------------------------------------------------------------ one pair
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("channels_in", "groups"), [(3, 1), (6, 2), (4, 4)])
def test_the_weights_are_those_of_both_in_float64(bias, affine, channels_in, groups):
    torch.manual_seed(0)
    one = nn.Conv2d(channels_in, 4, 3, groups=groups, bias=bias).double()
    norm = lived(nn.BatchNorm2d(4, affine=affine, eps=0.01)).double()
    inputs = torch.randn(2, channels_in, 7, 7, dtype=torch.float64)
    weight, shift = folded(one, norm)
    found = torch.nn.functional.conv2d(inputs, weight, shift, groups=groups)
    raw, per_channel = one(inputs), (1, -1, 1, 1)
    expected = (raw - norm.running_mean.view(per_channel)) / (norm.running_var.view(per_channel) + 0.01).sqrt()
    if affine:
        expected = expected * norm.weight.view(per_channel) + norm.bias.view(per_channel)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ((conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, groups=4), nn.BatchNorm2d(4)), 0),
        ((nn.BatchNorm2d(3), conv()), 1),
        ((conv(), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        ((conv(), nn.BatchNorm2d(4, track_running_stats=False)), 1),
        ((Tree(),), 1),
        ((Twice(),), 2),
        ((Scaled(3, 4, 3), nn.BatchNorm2d(4)), 1),
    ],
    ids=["pairs", "norm first", "between", "no statistics", "two readers", "called twice", "another kind"],
)
def test_only_what_a_norm_alone_reads_is_folded(layers, left):
    model = classifier(*layers)
    with torch.no_grad():
        before = model(images()).logits
        fold(model, images(1))
        torch.testing.assert_close(model(images()).logits, before, rtol=1e-5, atol=1e-5)
    assert norms(model) == left


@pytest.mark.parametrize(("place", "left"), [("0", 1), ("1", 1), ("2", 0), ("0.0", 1), ("pooled", 0)])
def test_what_a_tap_catches_stays_as_it_was(place, left):
    first = nn.Sequential(conv()) if place == "0.0" else conv()
    guide = Frozen(classifier(first, nn.BatchNorm2d(4), nn.ReLU(), taps=(place,)), torch.float32, CPU)
    before = guide(batch())
    guide.fold(images(1))
    after = guide(batch())
    assert norms(guide.model) == left
    torch.testing.assert_close(after.features[place], before.features[place], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-5, atol=1e-5)


def test_a_tap_on_what_holds_the_convolution_is_a_reader_too():
    guide = Frozen(classifier(nn.Sequential(conv()), nn.BatchNorm2d(4), taps=("0",)), torch.float32, CPU)
    before = guide(batch()).features["0"]
    guide.fold(images(1))
    assert torch.equal(guide(batch()).features["0"], before)


# ------------------------------------------------------------------------------------------------ real nets
@pytest.mark.parametrize(
    ("name", "size", "left"),
    [("resnet8", 16, 0), ("vgg8", 32, 0), ("wrn_16_2", 16, 6), ("mobilenet_v2", 32, 0), ("mobilenetv3_small_050", 32, 0)],
)
def test_real_nets_answer_as_before(name, size, left):
    torch.manual_seed(0)
    net = lived(build_net(ModelConfig(name=name), 10, size).module)
    guide = Frozen(Classifier(net, (0.5,) * 3, (0.25,) * 3), torch.float32, CPU)
    before, layout = guide(batch(4, size)).logits, guide.model.channels_last
    mark = fingerprint(guide.model)
    guide.fold(images(1, size))
    assert norms(guide.model) == left
    assert (guide(batch(4, size)).logits - before).abs().max() < 1e-5 * before.abs().max()
    assert guide.model.channels_last == layout
    assert guide.weights_mark == mark != fingerprint(guide.model)


def test_weights_are_kept_as_autocast_would_bring_them():
    guide = Frozen(classifier(conv(), nn.BatchNorm2d(4)), torch.bfloat16, CPU)
    before = guide(batch()).logits
    guide.fold(images(1))
    assert guide.model.net[0].weight.dtype == guide.model.net[0].bias.dtype == torch.bfloat16
    assert (guide(batch()).logits - before).abs().max() < 0.02 * before.abs().max()


def test_an_ensemble_folds_each_of_its_members():
    guide = Ensemble(Committee({name: classifier(conv(), nn.BatchNorm2d(4)) for name in "ab"}), torch.float32, CPU)
    before = guide(batch())
    guide.fold(images(1))
    assert norms(guide.model) == 0
    torch.testing.assert_close(guide(batch()).logits, before.logits, rtol=1e-5, atol=1e-5)


class Listed(nn.Module):
    """Calls a layer by another name than the one it is registered by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(4)
        self.layers = [self.conv, self.norm]

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs


def test_a_net_that_would_answer_otherwise_is_left_alone():
    model = classifier(Listed())
    model.net[0].norm.bias.fill_(50.0)
    guide = Frozen(model, torch.float32, CPU)
    before = guide(batch()).logits
    guide.fold(images(1))
    assert norms(guide.model) == 1
    assert torch.equal(guide(batch()).logits, before)


# ------------------------------------------------------------------------------------------------ runs
ONE = ("student=resnet8", "dataset.subset=200", "trainer.batch_size=64", "trainer.device=cpu", "trainer.threads=1", "distill.epochs=2")


@pytest.fixture
def distil(distillctl, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`distil("folder", "key=value")`: the folder of the stage. The table at the end is not what is tested here."""
    monkeypatch.setattr("distillctl.runs.execute.conclude", lambda session, plan, made: 0.0)

    def run(name: str, *words: str) -> Path:
        teacher = f"teacher.checkpoint={tiny_run / 'pretrain'}"
        finished = distillctl("distill", teacher, *ONE, f"hydra.run.dir={name}", *words, cwd=tmp_path)
        assert (finished.code, finished.err) in ((0, ""), (3, "error: far enough\n"))
        return tmp_path / name / "distill"

    return run


def test_a_run_by_a_folded_teacher_goes_as_one_by_the_teacher_itself(distil):
    words = ("trainer.precision=fp32",)
    plain, faster = distil("plain", "teacher.fold_batchnorm=false", *words), distil("faster", "teacher.micro_batch=24", *words)
    one, other = (json.loads((folder / "student.json").read_text()) for folder in (plain, faster))
    assert one["parents"] == other["parents"]
    assert other["metrics"]["val_nll"] == pytest.approx(one["metrics"]["val_nll"], rel=1e-3)
    weights = load_file(plain / "student.safetensors")
    for name, value in load_file(faster / "student.safetensors").items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-3)


def test_who_looks_inside_the_teacher_gets_it_whole(distil, monkeypatch):
    seen = []
    monkeypatch.setattr("distillctl.runs.train.Stage.measure_teacher", lambda stage, teacher: seen.append(norms(teacher.model)))
    for number, method in enumerate(("distill", "simkd")):
        distil(f"run{number}", f"method={method}", "distill.epochs=1")
    assert seen[0] == 0 < seen[1]


def test_what_rounds_otherwise_has_a_cache_of_its_own(distil, tmp_path, monkeypatch):
    monkeypatch.setattr("distillctl.runs.train.Stage.run", lambda stage: (_ for _ in ()).throw(DataError("far enough")))
    monkeypatch.setattr(nn.Module, "compile", lambda module: None)
    weights = set()
    for number, word in enumerate(("seed=0", "teacher.fold_batchnorm=false", "trainer.compile=true")):
        distil(f"run{number}", "dataset.views=1", word)
        kept = list((tmp_path / "outputs/.cache").glob("*/cache.json"))
        assert len(kept) == number + 1
        weights |= {json.loads(file.read_text())["parts"]["weights"] for file in kept}
    assert len(weights) == 1
