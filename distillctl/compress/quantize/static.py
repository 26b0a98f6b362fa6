"""Static int8: weights and activations with scales that calibration has fixed, as QuantizeLinear and DequantizeLinear (QDQ) in the file."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path

from distillctl.compress.quantize.graph import Model, check_names, finished, net_nodes, read, sources, weighted_nodes, write
from distillctl.compress.quantize.libraries import quantization
from distillctl.compress.quantize.ranges import Ranges

# besides the nodes with weights: what onnxruntime computes in int8, so that maps stay int8 from one convolution to the next
BETWEEN = (
    *("Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
)
ATTENTION = ("LayerNormalization", "Softmax")  # what a transformer has and a convolutional net has not


def write_static(
    source: Path,
    target: Path,
    ranges: Ranges,
    keep_float: Collection[str] = (),
    *,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> Path:
    """Quantise an fp32 file: equal files and ranges give equal bytes. keep_float: names of nodes that stay as they are."""
    model = read(source)
    check_names(model, keep_float)
    return write(static_model(model, ranges, keep_float, per_channel=per_channel, reduce_range=reduce_range), target)


def static_model(
    model: Model, ranges: Ranges, keep_float: Collection[str] = (), *, per_channel: bool = True, reduce_range: bool = False
) -> Model:
    """The same in memory: uint8 activations, symmetric int8 weights, float logits.

    reduce_range: 7 bits of weights. x86 without VNNI adds two products of uint8 and int8 in int16, which saturates at 32767 where both
    are large (2 * 255 * 127 = 64770); with 7 bits it cannot (2 * 255 * 64 = 32640). Counted on a resnet8 of digits (64 images): in the
    first convolution, whose input has its zero in the middle, 3.6 % of the pairs saturate, and change a sum by 9 % of its deviation; after
    a ReLU 3 in 10^8 or none. 7 bits cost every machine: 1.5 % of the logits' deviation rather than 1.1 %. So 8 are the default.
    """
    library = quantization()
    nodes = quantized_nodes(model, keep_float)
    if not nodes:
        return finished(copy.deepcopy(model), model, "int8")
    kinds = sorted({node.op_type for node in net_nodes(model) if node.name in set(nodes)})
    quantizer = library.qdq_quantizer.QDQQuantizer(
        prepared(model),
        per_channel,
        reduce_range,
        library.QuantType.QInt8,
        library.QuantType.QUInt8,
        ranges.as_tensors_data(),
        nodes,
        [],
        kinds,
        {
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],  # 256 values would be too few for logits: they would tie
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # as ONNX wants it; onnxruntime would not mind
    return finished(quantizer.model.model, model, "int8")


def quantized_nodes(model: Model, keep_float: Collection[str] = ()) -> list[str]:
    """Names of the nodes that are computed in int8, in the graph's order.

    Of a transformer only those with weights: measured on a ViT-Tiny, additions and attention in int8 as well make the largest error of a
    logit 11 times as large and the file slower. Elsewhere what lies between two convolutions too, unless it follows one that is kept.
    """
    nodes = net_nodes(model)
    weighted = {node.name for node in weighted_nodes(model)}
    chosen = weighted - set(keep_float)
    if not any(node.op_type in ATTENTION for node in nodes):
        follows = sources(model)
        between = {node.name for node in nodes if node.op_type in BETWEEN and node.name in follows}
        chosen |= {name for name in between - set(keep_float) if follows[name] <= chosen}
    return [node.name for node in nodes if node.name in chosen]


def prepared(model: Model) -> Model:
    """A copy whose tensors have their types written down, as quantisers read them."""
    library = quantization()
    return library.quant_utils.save_and_reload_model_with_shape_infer(copy.deepcopy(model))
