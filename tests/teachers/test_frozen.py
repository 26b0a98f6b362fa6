"""A frozen teacher answers and never learns."""

import pytest
import torch
from torch import nn

from distillctl.loop import FitSettings, fit
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.models.adapter import Classifier
from distillctl.models.committee import Committee
from distillctl.models.taps import tap
from distillctl.models.trace import pixels
from distillctl.runtime import Runtime
from distillctl.schedules import Constant
from distillctl.teachers.ensemble import Ensemble
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.training import Training
from distillctl.types import Batch

CPU = torch.device("cpu")


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return nn.Sequential(*layers)


def batch(seed: int = 0, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.randint(0, 5, (size,), generator=generator), torch.arange(size), 0)


def teacher(precision: torch.dtype = torch.float32) -> Frozen:
    return Frozen(Classifier(net(1), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), precision, CPU)


def distilled(guide: Frozen, steps: int = 5) -> Training:
    loss = WeightedSum({"ce": CrossEntropy(), "kd": SoftTargets(4.0)}, {"ce": 0.5, "kd": 0.5})
    method = Distill(Classifier(net(2), (0, 0, 0), (1, 1, 1)), loss, guide).train()
    optimizer = torch.optim.SGD(method.trainable("student"), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    runtime = Runtime(CPU, guide.precision)
    training = Training(method, {"student": optimizer}, runtime.scaler())
    fit(
        training,
        lambda epoch, first: (batch(number) for number in range(first, steps)),
        FitSettings(1, steps, 8, 0, Constant()),
        runtime,
        after_step=lambda report: None,
        after_epoch=lambda training, parts: True,
        save=lambda training: None,
        asked_to_stop=lambda: False,
    )
    return training


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_a_student_leaves_the_teacher_bit_for_bit_as_it_was(precision):
    guide = teacher(precision)
    before, answer = fingerprint(guide.model), guide(batch()).logits
    buffers = {name: value.clone() for name, value in guide.model.named_buffers()}
    training = distilled(guide)
    assert fingerprint(guide.model) == before
    assert all(torch.equal(value, buffers[name]) for name, value in guide.model.named_buffers())
    assert torch.equal(guide(batch()).logits, answer)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in guide.model.parameters())
    assert not guide.model.training
    assert not any(module.training for module in guide.model.modules())
    assert training.step == 5


def test_the_teacher_is_in_no_optimizer_and_no_checkpoint():
    guide = teacher()
    training = distilled(guide)
    theirs = {id(parameter) for parameter in guide.model.parameters()}
    assert not theirs & {id(parameter) for group in training.optimizers["student"].param_groups for parameter in group["params"]}
    assert not theirs & {id(parameter) for parameter in training.method.parameters()}
    pointers = {value.data_ptr() for value in guide.model.state_dict().values()}
    assert not pointers & {value.data_ptr() for value in training.method.state_dict().values()}
    assert all(name.startswith("student.") for name in training.method.state_dict())


def test_putting_the_method_into_training_mode_does_not_wake_the_teacher():
    guide = teacher()
    method = Distill(Classifier(net(2), (0, 0, 0), (1, 1, 1)), WeightedSum({"kd": SoftTargets()}, {"kd": 1.0}), guide)
    method.train()
    assert not guide.model.training
    assert torch.equal(guide(batch()).logits, guide(batch()).logits)  # dropout is off


def test_answers_carry_no_graph_and_may_be_part_of_one():
    answer = teacher()(batch()).logits
    assert not answer.requires_grad
    assert not answer.is_inference()
    student = torch.zeros(8, 5, requires_grad=True)
    (student * answer).sum().backward()
    torch.testing.assert_close(student.grad, answer)


def test_a_teacher_normalises_by_its_own_statistics():
    images = batch()
    by_hand = (images.inputs.float() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(teacher()(images).logits, net(1).eval()(by_hand), rtol=1e-4, atol=1e-5)


def test_a_teacher_sees_images_at_its_own_resolution():
    seen = []
    inner = net(1)
    inner.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    guide = Frozen(Classifier(inner, (0, 0, 0), (1, 1, 1), resolution=12), torch.float32, CPU)
    guide(batch())
    assert seen == [(8, 3, 12, 12)]


def test_answers_are_fp32_whatever_the_teacher_computes_in():
    assert teacher(torch.bfloat16)(batch()).logits.dtype == torch.float32


def test_a_fingerprint_sees_one_bit_and_not_the_memory_format():
    model = net(1)
    before = fingerprint(model)
    assert fingerprint(model.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        weight = model[0].weight[0, 0, 0]
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert fingerprint(model) != before


def test_labels_alone_ask_no_teacher():
    def unasked(images):
        raise AssertionError("the teacher was asked")

    method = Distill(Classifier(net(2), (0, 0, 0), (1, 1, 1)), WeightedSum({"ce": CrossEntropy()}, {"ce": 1.0}), unasked)
    assert method(batch()).loss.isfinite()


# ------------------------------------------------------------------------------------------------ in pieces, and compiled
def tapped(seed: int, seen: list[int] | None = None) -> Classifier:
    inner = net(seed)
    if seen is not None:
        inner.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return Classifier(inner, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), taps=tap(inner, ("2", "pooled"), pixels(8), "teacher"))


@pytest.mark.parametrize(("size", "pieces"), [(8, [8]), (9, [8]), (3, [3, 3, 2]), (7, [4, 4]), (1, [1] * 8)])
def test_a_teacher_that_is_asked_in_pieces_answers_alike(size, pieces):
    seen: list[int] = []
    guide, whole = Frozen(tapped(1, seen), torch.float32, CPU), Frozen(tapped(1), torch.float32, CPU)(batch())
    guide.micro_batch = size
    seen.clear()  # what finding the places of the taps asked
    answer = guide(batch())
    assert seen == pieces
    torch.testing.assert_close(answer.logits, whole.logits, rtol=1e-5, atol=1e-5)
    assert answer.features.keys() == whole.features.keys() == {"2", "pooled"}
    for name, feature in whole.features.items():
        torch.testing.assert_close(answer.features[name], feature, rtol=1e-5, atol=1e-5)
        assert not answer.features[name].is_inference()


@pytest.mark.parametrize("combine", ["mean_probability", "mean_loss", "confidence"])
def test_an_ensemble_that_is_asked_in_pieces_answers_alike(combine):
    whole, guide = (Ensemble(Committee({"a": tapped(1), "b": tapped(2)}), torch.float32, CPU, combine=combine) for _ in range(2))
    guide.micro_batch = 3
    one, other = guide(batch()), whole(batch())
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-5, atol=1e-5)
    assert one.features.keys() == other.features.keys()
    assert len(one.members) == len(other.members)
    for mine, theirs in zip(one.members, other.members, strict=True):
        torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("several", [False, True], ids=["one", "ensemble"])
def test_a_compiled_teacher_is_tapped_as_any_other(several, monkeypatch):
    torch.compiler.reset()
    compiled = []
    plainly = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: (compiled.append(type(module)), plainly(module, backend="eager")))
    guide = Ensemble(Committee({"a": tapped(1), "b": tapped(2)}), torch.float32, CPU) if several else Frozen(tapped(1), torch.float32, CPU)
    plain = guide(batch())
    guide.compile()
    answer = guide(batch())
    assert compiled == [Classifier] * (1 + several)
    torch.testing.assert_close(answer.logits, plain.logits)
    assert answer.features.keys() == plain.features.keys()
    for name, feature in plain.features.items():
        torch.testing.assert_close(answer.features[name], feature)
        assert not answer.features[name].is_inference()
