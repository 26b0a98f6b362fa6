"""An ONNX file as quantisers see it: which nodes are the net's own, what is written about it, how it is read and written."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from distillctl.compress.quantize.libraries import onnx_library
from distillctl.errors import CheckpointError, ConfigError, did_you_mean
from distillctl.files import read_bytes
from distillctl.models.shipping import with_precision
from distillctl.state import write_atomically

LOGITS = "logits"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "MatMulNBits")
FLOATS = (1, 10, 16)  # TensorProto.FLOAT, FLOAT16, BFLOAT16

Model = Any  # onnx.ModelProto, whose package is imported where it is used
Node = Any  # onnx.NodeProto


def read(source: Path) -> Model:
    """An ONNX file with logits that is not quantised yet, each of its nodes with a name. Raises CheckpointError for any other."""
    model = parse(source)
    if LOGITS not in (output.name for output in model.graph.output):
        raise CheckpointError(f"{source}: has no output `{LOGITS}`; quantise a file that `distillctl export` wrote")
    if is_quantized(model):
        raise CheckpointError(f"{source}: is quantised already; give the fp32 file that it was made of")
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}_{node.op_type}"
    return model


def parse(source: Path) -> Model:
    onnx = onnx_library()
    try:
        model = onnx.load_model_from_string(read_bytes(source))
        onnx.checker.check_model(model)
    except OSError as error:
        raise CheckpointError(f"{source}: {error.strerror or error}") from None
    except Exception as error:  # whatever protobuf and the checker raise for bytes that are something else
        raise CheckpointError(f"{source}: is no ONNX file that can be read ({type(error).__name__})") from None
    return model


def write(model: Model, target: Path) -> Path:
    """Equal models are equal bytes; the file is there whole or not at all."""
    write_atomically(target, [model.SerializeToString(deterministic=True)])
    return target


def finished(model: Model, origin: Model, precision: str) -> Model:
    """What a quantiser made of `origin`, described as that was, with its precision; what the quantiser noted for itself is gone."""
    del model.metadata_props[:]
    told = with_precision({entry.key: entry.value for entry in origin.metadata_props}, precision)
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = origin.producer_name, origin.producer_version
    return model


def is_quantized(model: Model) -> bool:
    return any(node.op_type in QUANTIZED or node.op_type.startswith("QLinear") for node in model.graph.node)


def net_nodes(model: Model) -> list[Node]:
    """Nodes of the net alone, in the graph's order: from the first with weights of its own to what computes the logits.

    What prepares an image lies before any weights, even where it resizes by products of matrices: those are computed from the image's
    size. Temperature and softmax come after the logits.
    """
    weights = weight_names(model)
    behind: set[str] = set()  # tensors that weights have had a part in
    after = []
    for node in model.graph.node:
        if has_weights(node, weights) or behind.intersection(node.input):
            behind.update(node.output)
            after.append(node)
    wanted, found = {LOGITS}, []
    for node in reversed(after):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def weighted_nodes(model: Model) -> list[Node]:
    """Those of the net that hold weights: what is worth quantising."""
    weights = weight_names(model)
    return [node for node in net_nodes(model) if has_weights(node, weights)]


def has_weights(node: Node, weights: Collection[str]) -> bool:
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def weight_names(model: Model) -> set[str]:
    """Stored tensors of two or more dimensions."""
    return {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}


def sources(model: Model) -> dict[str, set[str]]:
    """Of each node of the net without weights: the nodes with weights whose results reach it through no others."""
    weights = weight_names(model)
    reach: dict[str, set[str]] = {}
    found = {}
    for node in net_nodes(model):
        if has_weights(node, weights):
            reached = {node.name}
        else:
            reached = found[node.name] = set().union(*(reach.get(name, set()) for name in node.input))
        reach.update(dict.fromkeys(node.output, reached))
    return found


def check_names(model: Model, names: Iterable[str]) -> None:
    """Raise ConfigError for a name in `quantize.keep_float` that no node of the net has."""
    known = {node.name for node in net_nodes(model)}
    for name in names:
        if name not in known:
            raise ConfigError(f"quantize.keep_float={name}: no node of the net in this file; {did_you_mean(name, known)}")
