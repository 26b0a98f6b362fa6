"""Files whose weights alone have fewer bits: what they weigh, and that they answer in float32."""

import json

import numpy as np
import onnx
import pytest

from distillctl.compress.quantize.session import answer_of, logits_of
from distillctl.compress.quantize.weights import STORES, Weight, int4, int8, write_weights

SIZES = {"fp16": 0.5, "bf16": 0.5, "int8_weights": 0.29, "int4_weights": 0.19}  # of the weights, with their scales


def weighing(file):
    """Bytes of the weights and their scales, without biases."""
    return sum(len(tensor.raw_data) for tensor in onnx.load(file).graph.initializer if len(tensor.dims) > 1)


@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("kind", ["resnet_file", "transformer_file"])
def test_it_is_smaller_and_answers_alike(precision, kind, request, digits, tmp_path):
    source = request.getfixturevalue(kind)
    samples = digits.val if kind == "resnet_file" else digits.pixels(digits.val).numpy()
    file = write_weights(source, tmp_path / "small.onnx", precision)
    onnx.checker.check_model(onnx.load(file), full_check=True)
    assert weighing(file) <= SIZES[precision] * weighing(source)
    one, other = logits_of(answer_of(source), samples), logits_of(answer_of(file), samples)
    agreement = (one.argmax(1) == other.argmax(1)).float().mean().item()
    assert agreement > (0.8 if precision == "int4_weights" else 0.98)
    assert (one - other).abs().max() > 0
    (entry,) = onnx.load(file).metadata_props
    assert json.loads(entry.value)["export"]["precision"] == precision
    assert write_weights(source, tmp_path / "again.onnx", precision).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 3, 3), 0), ((7, 11), 0), ((7, 11), 1)])
@pytest.mark.parametrize(("store", "levels"), [(int8, 127), (int4, 7)])
def test_what_is_restored_is_within_half_a_step(store, levels, shape, axis):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[0] = 0
    stored = store(Weight("weight", values, axis))
    graph = onnx.helper.make_graph(
        stored.nodes, "restore", [], [onnx.helper.make_tensor_value_info("weight", 1, shape)], initializer=stored.tensors
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    import onnxruntime

    (restored,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    assert restored.shape == shape
    assert np.abs(restored - values).max() <= np.abs(values).max() / levels / 2 * 1.001
