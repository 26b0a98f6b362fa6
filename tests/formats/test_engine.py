"""An exported file as a model: whatever lies in its input in whatever way, it answers as the same arithmetic in numpy does."""

import copy
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import dense
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from distillctl.config import ModelConfig
from distillctl.errors import CheckpointError, ConfigError
from distillctl.formats.engine import Engine, Whole, are_probabilities, engine, opened
from distillctl.formats.format import IMAGE, PIXELS
from distillctl.formats.layout import LUMA, layout_of
from distillctl.inputs.image import Images
from distillctl.metrics import cost
from distillctl.models.obtain import obtain
from distillctl.teachers.frozen import Frozen, fingerprint
from distillctl.types import Batch

SIDE, CLASSES = 8, 3
INPUTS = Images(("a", "b", "c"), SIDE, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(3 * SIDE * SIDE, CLASSES)).astype(np.float32) / 20
GRAY_WEIGHT = RNG.normal(size=(SIDE * SIDE, CLASSES)).astype(np.float32) / 10
BIAS = RNG.normal(size=CLASSES).astype(np.float32)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (5, 3, SIDE, SIDE), dtype=np.uint8))


def node(kind, *names, **settings):
    return helper.make_node(kind, list(names[:-1]), [names[-1]], **settings)


FLATTEN = [node("Flatten", "x", "h")]
FROM_LAST = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Flatten", "t", "h")]
CAST = node("Cast", "x", "c", to=TensorProto.FLOAT)
DIVIDED = {"f": np.float32(255)}
FORMS = {
    "floats, channels first": (["n", 3, SIDE, SIDE], "float", FLATTEN, {}),
    "floats, channels last": (["n", SIDE, SIDE, 3], "float", FROM_LAST, {}),
    "half floats": (["n", 3, SIDE, SIDE], "half", FLATTEN, {}),
    "one at a time": ([1, 3, SIDE, SIDE], "float", FLATTEN, {}),
    "two at a time": ([2, SIDE, SIDE, 3], "float", FROM_LAST, {}),
    "any size": (["n", 3, "h", "w"], "float", FLATTEN, {}),
    "bytes, channels last": (
        ["n", SIDE, SIDE, 3],
        "uint8",
        [CAST, node("Div", "c", "f", "d"), node("Transpose", "d", "t", perm=[0, 3, 1, 2]), node("Flatten", "t", "h")],
        DIVIDED,
    ),
    "bytes, channels first": (["n", 3, SIDE, SIDE], "uint8", [CAST, node("Div", "c", "f", "d"), node("Flatten", "d", "h")], DIVIDED),
}
GRAY_FORMS = {
    "gray, channel first": (["n", 1, SIDE, SIDE], "float", FLATTEN, {}),
    "gray, channel last": (["n", SIDE, SIDE, 1], "float", FLATTEN, {}),
    "rows of gray": (["n", SIDE * SIDE], "float", [], {}),
}


def answers(images: torch.Tensor, normalised: bool = True) -> np.ndarray:
    """By hand, float64."""
    pixels = images.numpy().astype(np.float64) / 255
    if normalised:
        pixels = (pixels - np.reshape(INPUTS.mean, (1, 3, 1, 1))) / np.reshape(INPUTS.std, (1, 3, 1, 1))
    return pixels.reshape(len(pixels), -1) @ WEIGHT + BIAS


def gray_answers(images: torch.Tensor) -> np.ndarray:
    pixels = (images.numpy() / 255 - np.reshape(INPUTS.mean, (1, 3, 1, 1))) / np.reshape(INPUTS.std, (1, 3, 1, 1))
    return np.tensordot(pixels, LUMA, axes=(1, 0)).reshape(len(pixels), -1) @ GRAY_WEIGHT + BIAS


def model_of(file: Path, **settings):
    return obtain(ModelConfig(name="onnx", file=str(file), **settings), INPUTS, "teacher", seed=0)


def written(
    file: Path, shape=("n", 3, SIDE, SIDE), kind="float", before=FLATTEN, initial=None, weight=WEIGHT, bias=BIAS, **settings
) -> Path:
    dense(file, [(weight, bias)], list(shape), kind=kind, before=before, initial=initial or {}, **settings)
    return file


@pytest.mark.parametrize("form", FORMS)
def test_however_images_lie_the_answers_are_the_same(form, tmp_path):
    shape, kind, before, initial = FORMS[form]
    model = model_of(written(tmp_path / "net.onnx", shape, kind, before, initial))
    found = model.classifier(IMAGES).logits
    assert found.dtype == torch.float32
    assert np.allclose(found, answers(IMAGES, normalised=kind != "uint8"), atol=2e-2 if kind == "half" else 1e-5)


@pytest.mark.parametrize("form", GRAY_FORMS)
def test_a_net_of_gray_sees_the_luminance(form, tmp_path):
    shape, kind, before, initial = GRAY_FORMS[form]
    model = model_of(written(tmp_path / "net.onnx", shape, kind, before, initial, weight=GRAY_WEIGHT))
    assert np.allclose(model.classifier(IMAGES).logits, gray_answers(IMAGES), atol=1e-5)


def test_what_is_given_of_mean_and_deviation_counts(tmp_path):
    file = written(tmp_path / "net.onnx")
    plain = model_of(file, mean=[0.0] * 3, std=[1.0] * 3).classifier(IMAGES).logits
    assert np.allclose(plain, answers(IMAGES, normalised=False), atol=1e-5)


def test_probabilities_become_their_logarithms(tmp_path):
    plain = model_of(written(tmp_path / "logits.onnx"))
    soft = model_of(written(tmp_path / "probabilities.onnx", softmax=True))
    assert soft.net.module.probabilities
    assert not plain.net.module.probabilities
    expected = torch.from_numpy(answers(IMAGES)).log_softmax(-1)
    assert torch.allclose(soft.classifier(IMAGES).logits.double(), expected, atol=1e-5)


def test_a_probability_of_zero_is_the_smallest_that_there_is(tmp_path):
    sure = written(tmp_path / "sure.onnx", bias=np.array([0, 500, 0], np.float32), softmax=True)
    logits = model_of(sure).classifier(IMAGES).logits
    assert torch.isfinite(logits).all()
    assert logits[:, 0].max() < -80
    half = written(tmp_path / "half.onnx", kind="half", bias=np.array([0, 500, 0], np.float16), softmax=True)
    assert -10 < model_of(half).classifier(IMAGES).logits[:, 0].min() - np.log(np.finfo(np.float16).smallest_normal) < 10


def test_logits_are_not_taken_for_probabilities():
    assert are_probabilities(torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert not are_probabilities(torch.tensor([[0.25, 0.75], [1.5, -0.5]]))
    assert not are_probabilities(torch.tensor([[0.25, 0.75], [0.5, 0.4]]))


def test_a_file_that_takes_one_size_sees_all_of_a_larger_image(tmp_path):
    bytes_form = FORMS["bytes, channels last"]
    larger = Images(INPUTS.classes, 2 * SIDE, INPUTS.mean, INPUTS.std)
    images = IMAGES.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for name, shape, kind, before, initial in (("bytes", *bytes_form), ("floats", ["n", 3, SIDE, SIDE], "float", FLATTEN, {})):
        file = written(tmp_path / f"{name}.onnx", shape, kind, before, initial)
        model = obtain(ModelConfig(name="onnx", file=str(file)), larger, "teacher", seed=0)
        assert model.inputs.size == SIDE
        shrunk = nn.functional.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        expected = answers((shrunk.round() if kind == "uint8" else shrunk), normalised=kind != "uint8")
        assert np.allclose(model.classifier(images).logits, expected, atol=1e-4), name


def test_floats_are_seen_as_the_nearest_of_256_grays_by_a_file_that_takes_bytes(tmp_path):
    shape, kind, before, initial = FORMS["bytes, channels last"]
    model = model_of(written(tmp_path / "net.onnx", shape, kind, before, initial)).classifier
    assert isinstance(model, Whole)
    assert torch.equal(model(IMAGES).logits, model(IMAGES / 255 + 1e-4).logits)


def test_a_file_gives_no_gradient_and_says_so(tmp_path):
    shape, kind, before, initial = FORMS["bytes, channels last"]
    for name, form in (("floats", {}), ("bytes", {"shape": shape, "kind": kind, "before": before, "initial": initial})):
        model = model_of(written(tmp_path / f"{name}.onnx", **form)).classifier
        with pytest.raises(ConfigError, match="has no gradients, and an attack goes by them"):
            model((IMAGES / 255).requires_grad_())
        with torch.no_grad():
            model((IMAGES / 255).requires_grad_())


def test_its_mark_is_the_hash_of_the_file_and_nothing_of_it_is_folded_or_compiled(tmp_path):
    file = written(tmp_path / "net.onnx")
    model = model_of(file)
    teacher = Frozen(model.classifier, torch.float32, torch.device("cpu"))
    batch = Batch(IMAGES, torch.zeros(5, dtype=torch.int64), torch.arange(5), 0)
    before = teacher(batch).logits
    teacher.fold(IMAGES)
    teacher.compile()
    assert torch.equal(teacher(batch).logits, before)
    assert teacher.weights_mark == fingerprint(model.classifier) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert isinstance(copy.deepcopy(model.classifier).net, Engine)


def test_in_bfloat16_it_is_given_what_it_is_given_otherwise(tmp_path):
    model = model_of(written(tmp_path / "net.onnx")).classifier
    batch = Batch(IMAGES, torch.zeros(5, dtype=torch.int64), torch.arange(5), 0)
    for size in (None, 2):
        teacher = Frozen(model, torch.bfloat16, torch.device("cpu"))
        teacher.micro_batch = size
        assert torch.allclose(teacher(batch).logits, model(IMAGES).logits, atol=1e-6)


def test_parameters_and_megabytes_are_those_of_the_file(tmp_path):
    file = written(tmp_path / "net.onnx")
    model = model_of(file).classifier
    assert cost.parameters(model) == WEIGHT.size + BIAS.size
    assert cost.size_mb(model) == pytest.approx(file.stat().st_size / 1e6, abs=1e-3)
    with pytest.raises(RuntimeError):
        cost.macs(model, IMAGES[:1])


def test_it_follows_the_threads_of_torch_and_notices_another_file(tmp_path, monkeypatch):
    file = written(tmp_path / "net.onnx")
    model = model_of(file)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.allclose(model.classifier(IMAGES).logits.double(), torch.from_numpy(answers(IMAGES)), atol=1e-5)
    written(file, bias=BIAS + 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(CheckpointError, match="has changed while it was in use"):
        model.classifier(IMAGES)


def test_a_file_is_opened_once_and_again_where_it_has_changed(tmp_path):
    file = written(tmp_path / "net.onnx")
    first = opened(file, 1)
    assert opened(file, 1) is first
    written(file, bias=BIAS + 1, softmax=True)
    assert opened(file, 1) is not first
    assert engine(file, hashlib.sha256(file.read_bytes()).hexdigest()).runner is opened(file, 1)


@pytest.mark.parametrize(
    ("shape", "kind", "takes"),
    [
        ((None, None, None, 3), "tensor(uint8)", (IMAGE, None, None)),
        (("n", 3, 224, 224), "tensor(float)", (PIXELS, None, 224)),
        ((4, 224, 224, 3), "tensor(float16)", (PIXELS, 4, 224)),
        ((1, 1, 28, None), "tensor(double)", (PIXELS, 1, 28)),
        ((-1, 784), "tensor(float)", (PIXELS, None, 28)),
    ],
)
def test_what_an_input_takes(shape, kind, takes):
    found = layout_of(Path("net.onnx"), "x", kind, shape).takes
    assert (found.kind, found.batch, found.size) == takes


@pytest.mark.parametrize(
    ("shape", "kind", "reason"),
    [
        (("n", 5, 8, 8), "tensor(float)", "images are uint8 or float"),
        (("n", 192), "tensor(float)", "flat rows of gray squares"),
        (("n", None), "tensor(float)", "images are uint8 or float"),
        (("n", 3, 8), "tensor(float)", "images are uint8 or float"),
        ((), "tensor(float)", "images are uint8 or float"),
        (("n", 3, 8, 8), "tensor(int64)", "is tensor\\(int64\\)"),
        (("n", 3, 8, 8), "tensor(string)", "is tensor\\(string\\)"),
        (("n", 3, 8, 16), "tensor(float)", "is 8 x 16 px, and images here are squares"),
        ((None, None, None, None), "tensor(float)", "images are uint8 or float"),
    ],
)
def test_what_is_no_input_for_images(shape, kind, reason):
    with pytest.raises(CheckpointError, match=reason):
        layout_of(Path("net.onnx"), "x", kind, shape)


def test_a_graph_with_an_operator_that_nobody_knows_is_one_line(tmp_path):
    file = tmp_path / "net.onnx"
    graph = helper.make_graph(
        [helper.make_node("Secret", ["x"], ["y"], domain="elsewhere")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]), file)
    with pytest.raises(CheckpointError) as raised:
        model_of(file)
    assert str(raised.value).startswith(f"teacher.file={file}: no ONNX model that can be run here (")
    assert "\n" not in str(raised.value)


def test_no_file_beside_it_is_read(tmp_path):
    file = written(tmp_path / "whole.onnx")
    model = onnx.load(file)
    secret = tmp_path / "weights.bin"
    secret.write_bytes(WEIGHT.tobytes())
    [weight] = [value for value in model.graph.initializer if value.name == "w0"]
    weight.CopyFrom(numpy_helper.from_array(WEIGHT, "w0"))
    onnx.save(model, tmp_path / "parted.onnx", save_as_external_data=True, location="parted.data", size_threshold=0)
    with pytest.raises(CheckpointError, match="half a model is none; export it into one file"):
        model_of(tmp_path / "parted.onnx")
