"""Static and dynamic int8 files: what of them is int8, that they answer, and that equal inputs are equal bytes."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from distillctl.compress.quantize.dynamic import write_dynamic
from distillctl.compress.quantize.graph import net_nodes, read, weighted_nodes
from distillctl.compress.quantize.ranges import METHODS, calibrate
from distillctl.compress.quantize.samples import calibrating
from distillctl.compress.quantize.session import answer_of, logits_of
from distillctl.compress.quantize.static import quantized_nodes, write_static
from distillctl.errors import CheckpointError, ConfigError, DataError


def agreement(one, other, samples):
    return (logits_of(answer_of(one), samples).argmax(1) == logits_of(answer_of(other), samples).argmax(1)).float().mean().item()


def feeding(model, name):
    """Nodes that a tensor is made by, back to the inputs."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found, wanted = [], [name]
    while wanted:
        node = makers.pop(wanted.pop(), None)
        if node is not None:
            found.append(node)
            wanted += node.input
    return found


def test_the_net_begins_with_its_first_weights_and_ends_with_the_logits(resnet_file):
    nodes = net_nodes(read(resnet_file))
    assert [node.op_type for node in nodes].count("Conv") == 3
    assert nodes[0].op_type == "Conv"
    assert nodes[-1].op_type == "Gemm"
    assert list(nodes[-1].output) == ["logits"]
    assert not {"Cast", "Resize", "Round", "Softmax"} & {node.op_type for node in nodes}
    assert [node.op_type for node in weighted_nodes(read(resnet_file))] == ["Conv", "Conv", "Conv", "Gemm"]


def test_the_net_is_int8_and_what_prepares_images_is_not(resnet_file, ranges, digits, tmp_path):
    file = write_static(resnet_file, tmp_path / "int8.onnx", ranges)
    model = onnx.load(file)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    before = Counter(node.op_type for node in feeding(model, first.input[0]))
    assert before["QuantizeLinear"] == 1  # of what the convolution reads, and of nothing before
    assert before["Resize"] == before["Cast"] == 1
    after = {node.op_type for node in feeding(model, "probabilities")} - {node.op_type for node in feeding(model, "logits")}
    assert after == {"Softmax"} | ({"Div"} - {node.op_type for node in feeding(model, "logits")})
    (gemm,) = [node for node in model.graph.node if "logits" in node.output]
    assert gemm.op_type == "Gemm"  # the logits themselves are float: 256 values would tie
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = [kinds[name] for name in kinds if name.endswith("weight_quantized")]
    assert weights == [onnx.TensorProto.INT8] * 4
    onnx.checker.check_model(model)
    assert agreement(resnet_file, file, digits.val) > 0.97
    assert file.stat().st_size < resnet_file.stat().st_size


def test_images_of_any_size_and_number_go_through(resnet_file, ranges, tmp_path):
    answer = answer_of(write_static(resnet_file, tmp_path / "int8.onnx", ranges))
    for shape in ((1, 8, 8, 3), (5, 13, 21, 3)):
        assert answer(np.zeros(shape, np.uint8)).shape == (shape[0], 10)


def test_probabilities_are_those_of_the_logits_at_the_temperature(resnet_file, ranges, digits, tmp_path):
    import onnxruntime

    file = write_static(resnet_file, tmp_path / "int8.onnx", ranges)
    found, logits = onnxruntime.InferenceSession(str(file)).run(["probabilities", "logits"], {"image": digits.val[:9]})
    torch.testing.assert_close(torch.from_numpy(found), (torch.from_numpy(logits) / 1.5).softmax(1))


def test_metadata_stays_and_says_int8(resnet_file, ranges, tmp_path):
    for file in (write_static(resnet_file, tmp_path / "a.onnx", ranges), write_dynamic(resnet_file, tmp_path / "b.onnx")):
        (entry,) = onnx.load(file).metadata_props
        assert entry.key == "distillctl"
        assert json.loads(entry.value) == {"classes": list("0123456789"), "export": {"precision": "int8"}}


CODE = """
import sys
from pathlib import Path
import numpy as np
from distillctl.compress.quantize import graph, ranges, samples, static
source, target, images, method = sys.argv[1:]
found = ranges.calibrate(graph.read(Path(source)), samples.calibrating(np.load(images), 64)[0], method)
static.write_static(Path(source), Path(target), found)
"""


def test_another_process_writes_the_same_bytes(resnet_file, digits, tmp_path):
    np.save(tmp_path / "images.npy", digits.train)
    command = [sys.executable, "-c", CODE, str(resnet_file), str(tmp_path / "a.onnx"), str(tmp_path / "images.npy"), "entropy"]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # onnxruntime's calibration prints, and ours does not
    found = calibrate(read(resnet_file), calibrating(digits.train, 64)[0], "entropy")
    assert write_static(resnet_file, tmp_path / "b.onnx", found).read_bytes() == (tmp_path / "a.onnx").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_each_calibration_gives_ranges_of_the_net_alone(resnet_file, digits, method, capfd):
    model = read(resnet_file)
    found = calibrate(model, calibrating(digits.train, 40)[0], method)
    tensors = {name for node in net_nodes(model) for name in (*node.input, *node.output)}
    assert found.bounds
    assert set(found.bounds) <= tensors
    assert all(low < high for low, high in found.bounds.values())
    assert (found.samples, found.method) == (40, method)
    assert capfd.readouterr().out == ""


def test_minmax_is_what_the_tensor_really_takes(resnet, resnet_file, digits):
    found = calibrate(read(resnet_file), calibrating(digits.train, 40)[0])
    pixels = digits.pixels(digits.train[:40])
    first = next(node for node in net_nodes(read(resnet_file)))
    assert found.bounds[first.input[0]] == pytest.approx((pixels.min().item(), pixels.max().item()))


def test_a_node_that_is_kept_is_float_and_so_is_the_sum_after_it(resnet_file, ranges, tmp_path):
    model = read(resnet_file)
    second = weighted_nodes(model)[1].name
    kept = quantized_nodes(model, [second])
    assert second not in kept
    add = next(node.name for node in net_nodes(model) if node.op_type == "Add")
    assert add in quantized_nodes(model)
    assert add not in kept
    made = onnx.load(write_static(resnet_file, tmp_path / "kept.onnx", ranges, [second]))
    assert sum(tensor.name.endswith("weight_quantized") for tensor in made.graph.initializer) == 3


def test_with_all_nodes_kept_it_answers_as_the_float_file(resnet_file, ranges, digits, tmp_path):
    names = [node.name for node in weighted_nodes(read(resnet_file))]
    file = write_static(resnet_file, tmp_path / "float.onnx", ranges, names)
    assert torch.equal(logits_of(answer_of(file), digits.val), logits_of(answer_of(resnet_file), digits.val))


def test_seven_bits_of_weights_cannot_saturate(resnet_file, ranges, tmp_path):
    file = write_static(resnet_file, tmp_path / "seven.onnx", ranges, reduce_range=True)
    weights = [onnx.numpy_helper.to_array(part) for part in onnx.load(file).graph.initializer if part.name.endswith("weight_quantized")]
    assert max(np.abs(weight.astype(int)).max() for weight in weights) * 2 * 255 <= 2**15 - 1


def test_of_a_transformer_only_what_has_weights_is_int8(transformer_file, digits, tmp_path):
    model, samples = read(transformer_file), digits.pixels(digits.train).numpy()
    assert quantized_nodes(model) == [node.name for node in weighted_nodes(model)]
    file = write_static(transformer_file, tmp_path / "int8.onnx", calibrate(model, calibrating(samples, 256)[0]))
    assert agreement(transformer_file, file, digits.pixels(digits.val).numpy()) > 0.97


def test_dynamic_takes_products_and_leaves_convolutions(transformer_file, digits, tmp_path):
    file = write_dynamic(transformer_file, tmp_path / "dynamic.onnx")
    kinds = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert kinds["MatMulInteger"] == 5
    assert kinds["Conv"] == 1
    assert not kinds["ConvInteger"]
    assert kinds["MatMul"] == 2  # of attention, which have no weights
    assert agreement(transformer_file, file, digits.pixels(digits.val).numpy()) > 0.97
    again = write_dynamic(transformer_file, tmp_path / "again.onnx")
    assert again.read_bytes() == file.read_bytes()


# what is wrong, each in one line


def complaint(kind, call, *arguments, **keywords):
    with pytest.raises(kind) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_no_onnx(tmp_path, ranges):
    for number, content in enumerate((b"", b"PK\x03\x04 nothing", b"\x08\x07" * 40)):
        file = tmp_path / f"{number}.onnx"
        file.write_bytes(content)
        assert complaint(CheckpointError, write_static, file, tmp_path / "out.onnx", ranges).startswith(str(file))
    assert "No such file" in complaint(CheckpointError, write_static, tmp_path / "none.onnx", tmp_path / "out.onnx", ranges)
    assert not (tmp_path / "out.onnx").exists()


def test_an_int8_file_given_again(resnet_file, ranges, tmp_path):
    static, dynamic = write_static(resnet_file, tmp_path / "a.onnx", ranges), write_dynamic(resnet_file, tmp_path / "b.onnx")
    assert "is quantised already" in complaint(CheckpointError, write_static, dynamic, tmp_path / "c.onnx", ranges)
    assert "is quantised already" in complaint(CheckpointError, write_dynamic, static, tmp_path / "c.onnx")


def test_a_node_that_the_file_has_not(resnet_file, ranges, tmp_path):
    name = weighted_nodes(read(resnet_file))[0].name
    said = complaint(ConfigError, write_static, resnet_file, tmp_path / "out.onnx", ranges, [name + "x"])
    assert said.startswith(f"quantize.keep_float={name}x: ")
    assert f"did you mean {name}" in said


def test_no_image_to_calibrate_with(digits):
    assert complaint(DataError, calibrating, digits.train[:0], 256).startswith("quantize.samples=256: there is no image")
    assert complaint(DataError, calibrating, [], 256).startswith("quantize.samples=256: there is no image")


def test_fewer_images_than_asked_are_said(digits):
    batches, said = calibrating(digits.train[:40], 256)
    assert sum(map(len, batches)) == 40
    assert said == "calibrated on 40 images, all there are, where quantize.samples=256"
    batches, said = calibrating(digits.train, 40)
    assert (sum(map(len, batches)), said) == (40, None)


def test_nan_in_calibration(digits):
    samples = digits.pixels(digits.train[:40]).numpy().copy()
    samples[17, 0, 0, 0] = np.nan
    assert complaint(DataError, calibrating, samples, 40).startswith("calibration sample 17 holds NaN")


def test_a_calibration_that_there_is_not(resnet_file, digits):
    said = complaint(ConfigError, calibrate, read(resnet_file), [digits.train[:2]], "minmaxx")
    assert said == "quantize.calibration=minmaxx: did you mean minmax?"
