"""An ONNX file answers as the net does, whatever size images have, and what is no such file is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import CLASSES, METADATA, NETS, SIZE, Attention, convolutional, error_of, program, samples, written
from torch import Tensor, nn

from distillctl.errors import CheckpointError, ConfigError
from distillctl.formats import format_of
from distillctl.formats.engine import Engine, Whole, engine, is_whole
from distillctl.formats.format import Form, Takes
from distillctl.formats.onnx import OPSETS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FORMAT = format_of("onnx")
helper, FLOAT, INT64, UINT8 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("onnx", tmp_path_factory.mktemp("onnx"))


@pytest.mark.parametrize("preprocess", ["inside", "beside"])
@pytest.mark.parametrize("net", sorted(NETS))
def test_a_file_answers_as_the_net_does_for_any_number_of_images_of_any_size(net: str, preprocess: str, tmp_path: Path):
    made = NETS[net]()
    runner = FORMAT.open(written("onnx", tmp_path, made, Form(preprocess)))
    for count, size in ((1, (SIZE, SIZE)), (5, (40, 31)), (3, (7, 50))):
        assert error_of(runner, program(made, preprocess), samples(count, preprocess, size)) < 1e-5


def test_probabilities_are_of_the_logits_over_the_temperature(file: Path):
    probabilities, logits = FORMAT.open(file).run(("probabilities", "logits"), samples(4).numpy())
    assert np.allclose(probabilities, (torch.from_numpy(logits) / 1.7).softmax(-1).numpy(), atol=1e-6)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)


def test_the_file_says_what_it_takes_and_gives(file: Path, tmp_path: Path):
    model = onnx.load(file)
    assert [each.name for each in model.graph.input] == ["image"]
    assert [each.name for each in model.graph.output] == ["probabilities", "logits"]
    assert model.opset_import[0].version == 20
    assert FORMAT.open(file).takes == Takes("image")
    beside = FORMAT.open(written("onnx", tmp_path, form=Form("beside")))
    assert beside.takes == Takes("pixels", None, SIZE)
    assert dict(FORMAT.metadata(file)) == METADATA


def test_the_same_weights_give_the_same_bytes_in_another_process(file: Path, tmp_path: Path):
    code = f"from pathlib import Path; from nets import written; written('onnx', Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"], check=True)
    assert (tmp_path / "student.onnx").read_bytes() == file.read_bytes()


def test_no_path_of_this_machine_is_in_it(file: Path):
    content = file.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content
    assert b".py" not in content


def test_nothing_lies_beside_it(file: Path):
    assert [path.name for path in file.parent.iterdir()] == ["student.onnx"]


@pytest.mark.parametrize("opset", range(OPSETS[0], OPSETS[1] + 1))
def test_every_opset_that_is_offered_is_written_and_runs(opset: int, tmp_path: Path):
    net = Attention().eval()
    made = written("onnx", tmp_path, net, Form(opset=opset))
    assert onnx.load(made).opset_import[0].version == opset
    onnx.checker.check_model(onnx.load(made))
    assert error_of(FORMAT.open(made), program(net), samples(3)) < 1e-5


@pytest.mark.parametrize("opset", [1, 9, OPSETS[0] - 1, OPSETS[1] + 1, 99])
def test_another_opset_is_refused(opset: int, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"export.opset={opset}: opsets {OPSETS[0]} to {OPSETS[1]}"):
        written("onnx", tmp_path, form=Form(opset=opset))


# What cannot be exported


class Branching(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3)).repeat(1, CLASSES) if pixels.sum() > 0 else pixels.amax((2, 3)).repeat(1, CLASSES)


class Eigen(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return torch.linalg.eig(pixels.mean(1)).eigenvalues.real[:, :CLASSES]


class Failing(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        raise RuntimeError("nothing\nof this works")


@pytest.mark.parametrize(
    ("net", "said"),
    [(Branching(), "depends on"), (Eigen(), "aten.linalg_eig"), (Failing(), "nothing")],
)
@pytest.mark.parametrize("preprocess", ["inside", "beside"])
def test_a_net_that_cannot_be_exported_is_one_line(
    net: nn.Module, said: str, preprocess: str, tmp_path: Path, capfd: pytest.CaptureFixture
):
    with pytest.raises(ConfigError, match="export.format=onnx: the net cannot be exported") as error:
        written("onnx", tmp_path, net.eval(), Form(preprocess))
    assert capfd.readouterr() == ("", "")
    assert "\n" not in str(error.value)
    assert said in str(error.value)
    assert len(str(error.value)) < 400
    assert not list(tmp_path.iterdir())


# Files of others


def saved(to: Path, inputs: list[Any], outputs: list[Any], nodes: list[Any], initializers: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), to)
    return to


def value(name: str, kind: int, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


MEANS = helper.make_node("ReduceMean", ["pixels", "edges"], ["means"], keepdims=0)
EDGES = helper.make_tensor("edges", INT64, [2], [2, 3])


def test_a_net_of_another_exporter_is_run(tmp_path: Path):
    file = saved(tmp_path / "a.onnx", [value("pixels", FLOAT, "N", 3, 8, 8)], [value("means", FLOAT, "N", 3)], [MEANS], [EDGES])
    runner, pixels = FORMAT.open(file), np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    assert runner.takes == Takes("pixels", None, 8)
    assert np.allclose(runner(pixels), pixels.mean((2, 3)), atol=1e-6)
    assert not FORMAT.metadata(file)


def test_a_file_for_one_number_of_samples_is_given_so_many_at_a_time(tmp_path: Path):
    file = saved(tmp_path / "a.onnx", [value("pixels", FLOAT, 4, 3, 8, 8)], [value("means", FLOAT, 4, 3)], [MEANS], [EDGES])
    runner = FORMAT.open(file)
    assert runner.takes == Takes("pixels", 4, 8)
    for count in (1, 4, 7, 8):
        pixels = np.random.default_rng(count).normal(size=(count, 3, 8, 8)).astype(np.float32)
        assert np.allclose(runner(pixels), pixels.mean((2, 3)), atol=1e-6)


def test_an_input_of_whole_numbers_is_refused(tmp_path: Path):
    node = helper.make_node("Cast", ["pixels"], ["means"], to=FLOAT)
    file = saved(tmp_path / "a.onnx", [value("pixels", INT64, "N", 7)], [value("means", FLOAT, "N", 7)], [node])
    with pytest.raises(CheckpointError, match=r"a\.onnx: its input pixels is tensor\(int64\)"):
        FORMAT.open(file)


def test_two_inputs_are_refused(tmp_path: Path):
    node = helper.make_node("Add", ["left", "right"], ["sum"])
    file = saved(tmp_path / "a.onnx", [value("left", FLOAT, "N", 3), value("right", FLOAT, "N", 3)], [value("sum", FLOAT, "N", 3)], [node])
    with pytest.raises(CheckpointError, match=r"it takes 2 inputs \(left, right\)"):
        FORMAT.open(file)


def test_outputs_that_are_no_logits_are_refused(tmp_path: Path):
    node = helper.make_node("Relu", ["pixels"], ["same"])
    file = saved(tmp_path / "a.onnx", [value("pixels", FLOAT, "N", 3, 8, 8)], [value("same", FLOAT, "N", 3, 8, 8)], [node])
    with pytest.raises(CheckpointError, match="which of its outputs are logits"):
        FORMAT.open(file)


def test_of_two_outputs_one_has_to_be_called_logits(tmp_path: Path):
    pixels, twice = value("pixels", FLOAT, "N", 3, 8, 8), helper.make_node("Relu", ["means"], ["logits"])
    outputs = [value("means", FLOAT, "N", 3), value("logits", FLOAT, "N", 3)]
    runner = FORMAT.open(saved(tmp_path / "a.onnx", [pixels], outputs, [MEANS, twice], [EDGES]))
    assert np.array_equal(runner(-np.ones((1, 3, 8, 8), np.float32)), np.zeros((1, 3), np.float32))
    twice.output[0], outputs[1] = "other", value("other", FLOAT, "N", 3)
    with pytest.raises(CheckpointError, match=r"It has means \['N', 3\], other \['N', 3\]; call one of them logits"):
        FORMAT.open(saved(tmp_path / "b.onnx", [pixels], outputs, [MEANS, twice], [EDGES]))


def test_a_file_that_is_given_another_size_is_one_line(tmp_path: Path):
    file = saved(tmp_path / "a.onnx", [value("pixels", FLOAT, "N", 3, 8, 8)], [value("means", FLOAT, "N", 3)], [MEANS], [EDGES])
    with pytest.raises(CheckpointError, match=r"ONNX Runtime cannot run it on \[1, 3, 9, 9\]") as error:
        FORMAT.open(file)(np.zeros((1, 3, 9, 9), np.float32))
    assert "\n" not in str(error.value)


def test_half_a_model_is_refused_also_where_the_other_half_lies_beside(file: Path, tmp_path: Path):
    onnx.save(onnx.load(file), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=16)
    assert (tmp_path / "a.data").exists()
    with pytest.raises(CheckpointError, match="its weights lie in another file"):
        FORMAT.open(tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="its weights lie in another file"):
        FORMAT.metadata(tmp_path / "a.onnx")


def test_no_file_of_this_machine_is_read_as_weights(tmp_path: Path):
    pixels, secret = value("pixels", FLOAT, "N", 3, 8, 8), onnx.TensorProto(name="edges", data_type=INT64, dims=[2])
    secret.data_location = onnx.TensorProto.EXTERNAL
    secret.external_data.add(key="location", value="/etc/passwd")
    model = helper.make_model(helper.make_graph([MEANS], "net", [pixels], [value("means", FLOAT, "N", 3)], [secret]), ir_version=10)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="its weights lie in another file"):
        FORMAT.open(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"", b"a text\n", bytes(4096), b"\x08"])
def test_what_is_no_model_is_one_line(content: bytes, tmp_path: Path):
    (tmp_path / "a.onnx").write_bytes(content)
    for read in (FORMAT.open, FORMAT.metadata):
        with pytest.raises(CheckpointError, match=r"a\.onnx: no ONNX model that can be run here") as error:
            read(tmp_path / "a.onnx")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(share: float, file: Path, tmp_path: Path):
    content = file.read_bytes()
    (tmp_path / "a.onnx").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"a\.onnx: ") as error:
        FORMAT.open(tmp_path / "a.onnx")
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_one_line(tmp_path: Path):
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(CheckpointError, match="a folder, not a regular file"):
        FORMAT.open(tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="No such file"):
        FORMAT.open(tmp_path / "b.onnx")


def test_an_operator_that_this_runtime_does_not_know_is_named(tmp_path: Path):
    node = helper.make_node("Frobnicate", ["pixels"], ["means"], domain="com.example")
    graph = helper.make_graph([node], "net", [value("pixels", FLOAT, "N", 3, 8, 8)], [value("means", FLOAT, "N", 3)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)], ir_version=10)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="Frobnicate"):
        FORMAT.open(tmp_path / "a.onnx")


# As a model


def test_an_engine_answers_for_images_as_data_sets_hold_them(file: Path):
    net = engine(file, "ab" * 32, parameters=7, macs=9)
    assert is_whole(net)
    images = samples(3).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = program(convolutional())(samples(3))[1]
    for given in (images, images / 255):
        assert torch.allclose(Whole(net)(given).logits, wanted, atol=1e-5)
    assert isinstance(net, Engine)
    assert bytes(net.digest.tolist()).hex() == "ab" * 32
    assert not list(net.parameters())
