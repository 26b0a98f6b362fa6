"""The reused classifier: what becomes of the student's net, what it learns from, and that it ships and comes back."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from processes import StopAfter, configured
from safetensors.torch import load_file
from torch import Tensor, nn

from distillctl.config import ModelConfig
from distillctl.errors import ConfigError
from distillctl.inputs.image import Images
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.simkd import MAP, ReusedClassifier, SimKD, averages, head_of
from distillctl.models.net import plan_net, rebuild
from distillctl.models.obtain import Obtained, obtain
from distillctl.models.record import Record
from distillctl.models.script import load_script
from distillctl.models.trace import pixels
from distillctl.runs.check import check_settings
from distillctl.runs.execute import execute
from distillctl.runs.session import session
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.types import Batch, Output

CPU = torch.device("cpu")
IMAGES = Images(tuple("abcde"), 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
QUICK = ["dataset.subset=160", "trainer.batch_size=32", "trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32"]


def adapted(student: str = "resnet8", teacher: str = "resnet8x4", factor: int = 2, seed: int = 0) -> tuple[Obtained, Frozen]:
    guide = Frozen(obtain(ModelConfig(name=teacher), IMAGES, "teacher", 0).classifier, torch.float32, CPU)
    pupil = obtain(ModelConfig(name=student), IMAGES, "student", seed, taps=("stage2", "pooled"))
    return SimKD.adapt({"factor": factor}, pupil, guide, IMAGES, seed), guide


def batch(count: int = 4) -> Batch:
    images = torch.randint(256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Batch(images, torch.arange(count) % 5, torch.arange(count), 0)


def method(student: Obtained, teacher: Frozen) -> SimKD:
    loss = WeightedSum({"simkd": ReusedClassifier()}, {"simkd": 1.0})
    return SimKD(student.classifier, loss, teacher, inputs=IMAGES)


# where a net ends


@pytest.mark.parametrize(
    ("name", "source", "ends"),
    [
        ("resnet8", "auto", ("pool", "classifier")),
        ("wrn_16_1", "auto", ("pool", "classifier")),
        ("resnet50", "auto", ("avgpool", "fc")),
        ("resnet18", "timm", ("global_pool", "fc")),
        ("resnet26d", "timm", ("global_pool", "fc")),
    ],
)
def test_pool_and_classifier_are_found(name, source, ends):
    net = plan_net(ModelConfig(name=name, source=source), 5, 32)
    assert head_of(net.module, pixels(32)) == ends
    assert head_of(plan_net(ModelConfig(name=name, source=source), 5, 8).module, pixels(8)) == ends  # a last map of one position


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenet_v3_small", "convnext_tiny", "vgg11"])
def test_a_net_that_ends_otherwise_has_none(name):
    assert head_of(plan_net(ModelConfig(name=name), 5, 32).module, pixels(32)) is None
    with pytest.raises(ConfigError, match=f"method=simkd: student={name} does not end in"):
        SimKD.check_net(lambda: plan_net(ModelConfig(name=name), 5, 32), "student", IMAGES)


def test_what_averages_over_positions():
    assert averages(nn.AdaptiveAvgPool2d(1), (1, 4, 1, 1))
    assert averages(nn.AvgPool2d(4), (1, 4, 4, 4))
    assert averages(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 4, 2, 2))
    for other in (nn.Identity(), nn.Flatten(), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.AvgPool2d(2), nn.Conv2d(2, 1, 2)):
        assert not averages(other, (1, 4, 4, 4))


# what becomes of the student


def test_the_classifier_is_the_teachers_and_stays():
    student, teacher = adapted()
    head, reused = student.net.module.classifier, teacher.model.net.classifier
    assert torch.equal(head.weight, reused.weight)
    assert torch.equal(head.bias, reused.bias)
    assert head.weight.data_ptr() != reused.weight.data_ptr()
    learning = method(student, teacher).trainable("student")
    assert not {head.weight, head.bias} & set(learning)
    assert len(learning) == len(list(student.classifier.parameters())) - 2


@pytest.mark.parametrize(("factor", "narrow"), [(1, 256), (2, 128), (4, 64), (1000, 1)])
def test_the_bottleneck_goes_from_the_students_channels_to_the_teachers(factor, narrow):
    student, _ = adapted(factor=factor)
    shapes = [tuple(part.weight.shape) for part in student.net.module.pool[0] if isinstance(part, nn.Conv2d)]
    assert shapes == [(narrow, 64, 1, 1), (narrow, narrow, 3, 3), (256, narrow, 1, 1)]
    assert student.net.edits == (("pool", f"bottleneck 64 {narrow} 256"), ("classifier", "linear 256"))


def test_the_trunk_keeps_its_names_and_its_weights():
    plain = obtain(ModelConfig(name="resnet8"), IMAGES, "student", 0).net.module.state_dict()
    edited = adapted()[0].net.module.state_dict()
    trunk = [name for name in plain if not name.startswith("classifier.")]
    assert all(torch.equal(plain[name], edited[name]) for name in trunk)
    assert {name.partition(".")[0] for name in edited.keys() - plain.keys()} == {"pool"}


def test_new_weights_are_a_function_of_the_seed():
    one = adapted()[0]
    torch.manual_seed(77)
    again, other = adapted()[0], adapted(seed=1)[0]
    assert fingerprint(one.net.module) == fingerprint(again.net.module)
    assert not torch.equal(one.net.module.pool[0][0].weight, other.net.module.pool[0][0].weight)


def test_taps_that_a_loss_reads_still_catch():
    student, _ = adapted()
    features = student.classifier.eval()(batch().inputs).features
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "stage2": (4, 32, 8, 8),
        "pooled": (4, 256),
        MAP: (4, 256, 4, 4),
    }
    assert torch.allclose(features["pooled"], features[MAP].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize(("student", "source"), [("resnet8", "auto"), ("resnet18", "auto"), ("test_resnet", "timm")])
def test_edits_are_replayed_from_json(student, source):
    guide = Frozen(obtain(ModelConfig(name="resnet8x4"), IMAGES, "teacher", 0).classifier, torch.float32, CPU)
    net = SimKD.adapt({}, obtain(ModelConfig(name=student, source=source), IMAGES, "student", 0), guide, IMAGES, 0).net
    again = rebuild(net.source, net.name, 5, net.args, json.loads(json.dumps(net.edits)))
    again.load_state_dict(net.module.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(net.module.eval()(images), again.eval()(images))


# what it learns from


def by_hand(ours: Tensor, theirs: Tensor) -> float:
    """One number at a time; maps of the same size."""
    pairs = list(zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def answer(*shape: int, seed: int) -> Output:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Output(torch.zeros(shape[0], 5), {MAP: values})


def test_the_loss_by_hand():
    ours, theirs = answer(3, 4, 2, 2, seed=1), answer(3, 4, 2, 2, seed=2)
    found = ReusedClassifier()(ours, theirs, batch())
    assert found.item() == pytest.approx(by_hand(ours.features[MAP], theirs.features[MAP]), rel=1e-9)


@pytest.mark.parametrize(("student", "teacher"), [(4, 2), (2, 4)])
def test_maps_are_compared_at_the_smaller_size(student, teacher):
    ours, theirs = answer(3, 4, student, student, seed=1), answer(3, 4, teacher, teacher, seed=2)
    small = [output.features[MAP].unflatten(3, (2, -1)).unflatten(2, (2, -1)).mean((3, 5)) for output in (ours, theirs)]
    assert ReusedClassifier()(ours, theirs, batch()).item() == pytest.approx(by_hand(*small), rel=1e-9)


def test_the_teachers_map_is_what_its_classifier_averages():
    student, teacher = adapted()
    made = method(student, teacher).eval()
    terms = made(batch(), "student")
    with torch.no_grad():
        net, images = teacher.model.net, teacher.model.prepare(batch().inputs)
        theirs = net.stage3(net.stage2(net.stage1(net.relu(net.bn(net.conv(images))))))
        ours = student.classifier(batch().inputs).features[MAP]
    assert terms.loss.item() == pytest.approx((ours - theirs).square().mean().item(), rel=1e-5)
    assert terms.parts.keys() == {"simkd"}


def test_gradients_reach_all_that_learns_and_nothing_of_the_teacher():
    student, teacher = adapted()
    before = fingerprint(teacher.model)
    made = method(student, teacher).train()
    made(batch(), "student").loss.backward()
    assert all(parameter.grad is not None for parameter in made.trainable("student"))
    assert all(parameter.grad is None for parameter in student.net.module.classifier.parameters())
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert fingerprint(teacher.model) == before
    assert not any(part._forward_pre_hooks for part in teacher.model.modules())


def test_a_perfect_map_gives_the_teachers_answers():
    student, teacher = adapted()
    with torch.no_grad():
        values = torch.rand(3, 256, 4, 4)
        net = student.net.module
        ours = net.classifier(net.flatten(net.pool[1](values)))
        theirs = teacher.model.net.classifier(values.mean((2, 3)))
    assert torch.allclose(ours, theirs, atol=1e-6)


# in a run


@pytest.fixture(scope="module")
def distilled(tiny_run, tmp_path_factory) -> Path:
    """A run of `distillctl distill method=simkd`."""
    folder = tmp_path_factory.mktemp("simkd") / "run"
    given = ["method=simkd", f"teacher.checkpoint={tiny_run}", "student=resnet14", "distill.epochs=1", *QUICK]
    config = configured("distill", folder, *given)
    check_settings(config)
    with session(config, folder, StopAfter(10**9)) as running:
        execute(running)
    return folder


def test_what_ships_loads_alone_and_answers_alike(distilled):
    stage = distilled / "distill"
    written = (stage / "student.json").read_text()
    record = Record.from_json(json.loads(written))
    assert json.dumps(record.to_json(), indent=2) + "\n" == written
    found = obtain(
        ModelConfig(name="recorded", checkpoint=str(distilled)), Images(tuple("0123456789"), 8, (0, 0, 0), (1, 1, 1)), "student", 0
    )
    script = (stage / "load_student.py").read_text()
    assert "distillctl" not in script
    assert script == load_script(found.net, "student", record, found.inputs.script())
    specification = importlib.util.spec_from_file_location("load_student", stage / "load_student.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    alone, images = module.load(), torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(alone(images), found.net.module.eval()(images))


def test_what_ships_has_the_teachers_classifier_and_is_counted(distilled, tiny_run):
    weights = load_file(distilled / "distill" / "student.safetensors")
    teacher = load_file(tiny_run / "pretrain" / "teacher.safetensors")
    assert torch.equal(weights["classifier.weight"], teacher["classifier.weight"])
    assert torch.equal(weights["classifier.bias"], teacher["classifier.bias"])
    counted = sum(
        value.numel() for name, value in weights.items() if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    [row] = [row for row in json.loads((distilled / "summary.json").read_text())["rows"] if row["model"] == "distilled"]
    assert row["parameters"] == counted


def test_what_ships_can_be_fine_tuned_all_of_it(distilled, tmp_path):
    folder = tmp_path / "run"
    config = configured("finetune", folder, f"student.checkpoint={distilled}", "finetune.epochs=1", *QUICK)
    with session(config, folder, StopAfter(10**9)) as running:
        execute(running)
    before, after = load_file(distilled / "distill" / "student.safetensors"), load_file(folder / "finetune" / "student.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert not torch.equal(before["pool.0.0.weight"], after["pool.0.0.weight"])


def test_what_ships_takes_a_new_classifier(distilled):
    config = ModelConfig(name="recorded", checkpoint=str(distilled), new_head=True)
    found = obtain(config, Images(("a", "b", "c"), 8, (0, 0, 0), (1, 1, 1)), "student", 0)
    assert found.classifier.eval()(torch.rand(2, 3, 8, 8)).logits.shape == (2, 3)


# what a user can get wrong


@pytest.mark.parametrize("factor", [0, -1, "two", 1.5])
def test_a_wrong_factor_is_named(factor, distillctl, tmp_path):
    finished = distillctl("distill", "method=simkd", f"method.factor={factor}", "teacher.checkpoint=x", cwd=tmp_path)
    assert finished.code == 2
    assert f"error: method.factor={factor}" in finished.err


def test_its_loss_without_it_says_so():
    plain = Output(torch.zeros(2, 5), {})
    with pytest.raises(ConfigError, match="add method=simkd"):
        ReusedClassifier()(plain, plain, batch())


def test_several_teachers_are_refused():
    with pytest.raises(ConfigError, match="reuses the classifier of one teacher"):
        SimKD.check_net(lambda: plan_net(ModelConfig(name="resnet8"), 5, 32), "teacher.members.a", IMAGES)


def test_a_net_that_does_not_suit_is_refused_before_any_training(distillctl, tmp_path):
    given = ["method=simkd", "teacher=mobilenet_v3_small", "student=mobilenet_v3_small", *QUICK, "hydra.run.dir=run"]
    finished = distillctl("train", *given, cwd=tmp_path)
    assert finished.code == 2
    lines = [line for line in finished.err.splitlines() if line]
    assert [line.partition(" does")[0].removeprefix("error: ") for line in lines] == [
        "method=simkd: teacher=mobilenet_v3_small",
        "method=simkd: student=mobilenet_v3_small",
    ]
    assert not (tmp_path / "run" / "pretrain").exists()


def test_the_option_brings_its_own_loss_and_another_joins_it(distillctl, tmp_path):
    shown = distillctl("distill", "method=simkd", "--cfg", "job", "--package", "loss", cwd=tmp_path).out
    assert "SoftTargets" not in shown
    assert "ReusedClassifier" in shown
    shown = distillctl("distill", "method=simkd", "loss=kd", "--cfg", "job", "--package", "loss", cwd=tmp_path).out
    assert "SoftTargets" in shown
    assert "ReusedClassifier" in shown
