"""Weights alone in fewer bits: the file shrinks, onnxruntime restores them in float32 once as it loads it, and a pass takes as long as before.

Restored by nodes that any runtime folds: Cast, Mul and Reshape of constants. Measured on one thread of x86 with AVX-512 (onnxruntime 1.32):
nets that compute in fp16 are up to 1.3 times slower than fp32 (ViT-Tiny), DequantizeLinear on weights alone is not folded and is 1.1
(ViT-Tiny) to 4 times (MobileNetV3) slower, MatMulNBits of 8 bits 1.5 to 1.9 times, and it takes no convolutions. Those are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.compress.quantize.graph import Model, finished, read, weighted_nodes, write
from distillctl.compress.quantize.libraries import onnx_library

BLOCK = 32  # weights that share a scale in int4
FEWEST = 64  # smaller tensors stay as they are: the nodes would take more than they save
OPSET_OF_INT4 = 21


def write_weights(source: Path, target: Path, precision: str) -> Path:
    """precision: fp16, bf16, int8_weights (a scale a channel) or int4_weights (a scale for 32 weights), all of them symmetric."""
    return write(weights_model(read(source), precision), target)


def weights_model(model: Model, precision: str) -> Model:
    """The same in memory."""
    store = STORES[precision]
    small = with_opset(copy.deepcopy(model), OPSET_OF_INT4) if precision == "int4_weights" else copy.deepcopy(model)
    library = onnx_library()
    channels = {node.input[1]: output_axis(node) for node in weighted_nodes(small)}
    kept, nodes = [], []
    for tensor in small.graph.initializer:
        if tensor.name not in channels or np.prod(tensor.dims) < FEWEST or tensor.data_type != library.TensorProto.FLOAT:
            kept.append(tensor)
            continue
        stored = store(Weight(tensor.name, library.numpy_helper.to_array(tensor), channels[tensor.name]))
        kept += stored.tensors
        nodes += stored.nodes
    others = list(small.graph.node)
    del small.graph.initializer[:], small.graph.node[:]
    small.graph.initializer.extend(kept)
    small.graph.node.extend([*nodes, *others])
    return finished(small, model, precision)


@dataclass(frozen=True)
class Weight:
    name: str
    values: np.ndarray
    axis: int  # of the output channels


@dataclass(frozen=True)
class Stored:
    """What a weight is in the file, and the nodes that give it back under its own name."""

    tensors: list[Any]
    nodes: list[Any]


def half(kind: str) -> Callable[[Weight], Stored]:
    def store(weight: Weight) -> Stored:
        values = weight.values.astype(np.float16 if kind == "fp16" else narrow("bfloat16"))
        name = f"{weight.name}.{kind}"
        return Stored([tensor_of(values, name)], [node_of("Cast", [name], weight.name, to=onnx_library().TensorProto.FLOAT)])

    return store


def int8(weight: Weight) -> Stored:
    others = tuple(axis for axis in range(weight.values.ndim) if axis != weight.axis)
    scale = scales(weight.values, others, 127)
    return scaled(weight.name, np.rint(weight.values / scale).astype(np.int8), scale)


def int4(weight: Weight) -> Stored:
    """In blocks along a row of output weights; the last is filled with zeros. int4 has no tensor of odd length to be afraid of then."""
    rows = np.moveaxis(weight.values, weight.axis, 0)
    flat = rows.reshape(-1)
    blocks = np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    scale = scales(blocks, (1,), 7)
    part = scaled(f"{weight.name}.blocks", np.rint(blocks / scale).astype(narrow("int4")), scale)
    name, shape = weight.name, np.array(rows.shape, dtype=np.int64)
    order = np.argsort([weight.axis, *(axis for axis in range(weight.values.ndim) if axis != weight.axis)])
    sizes = [tensor_of(np.array([-1]), f"{name}.flat"), tensor_of(np.array([0]), f"{name}.begin")]
    sizes += [tensor_of(np.array([len(flat)]), f"{name}.end"), tensor_of(shape, f"{name}.shape")]
    nodes = [
        node_of("Reshape", [f"{name}.blocks", f"{name}.flat"], f"{name}.values"),
        node_of("Slice", [f"{name}.values", f"{name}.begin", f"{name}.end"], f"{name}.cut"),
        node_of("Reshape", [f"{name}.cut", f"{name}.shape"], f"{name}.rows"),
        node_of("Transpose", [f"{name}.rows"], name, perm=[int(axis) for axis in order]),
    ]
    return Stored(part.tensors + sizes, part.nodes + nodes)


STORES: dict[str, Callable[[Weight], Stored]] = {"fp16": half("fp16"), "bf16": half("bf16"), "int8_weights": int8, "int4_weights": int4}


def scales(values: np.ndarray, over: tuple[int, ...], largest: int) -> np.ndarray:
    """float32: what 1 stands for, so that the largest of the values over these axes is `largest`; 1 where all are 0."""
    found = np.abs(values).max(axis=over, keepdims=True) / largest
    return np.where(found == 0, 1, found).astype(np.float32)


def scaled(name: str, integers: np.ndarray, scale: np.ndarray) -> Stored:
    tensors = [tensor_of(integers, f"{name}.integers"), tensor_of(scale, f"{name}.scale")]
    cast = node_of("Cast", [f"{name}.integers"], f"{name}.floats", to=onnx_library().TensorProto.FLOAT)
    return Stored(tensors, [cast, node_of("Mul", [f"{name}.floats", f"{name}.scale"], name)])


def output_axis(node: Any) -> int:
    """Of the output channels in a node's weight."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def with_opset(model: Model, lowest: int) -> Model:
    """A model of at least this opset."""
    now = next(entry.version for entry in model.opset_import if not entry.domain)
    if now >= lowest:
        return model
    onnx_library()
    from onnx import version_converter

    return version_converter.convert_version(model, lowest)


def narrow(name: str) -> Any:
    """A dtype that numpy has not; onnx brings ml_dtypes along."""
    import ml_dtypes

    return getattr(ml_dtypes, name)


def tensor_of(values: np.ndarray, name: str) -> Any:
    return onnx_library().numpy_helper.from_array(np.ascontiguousarray(values), name)


def node_of(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return onnx_library().helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes)
