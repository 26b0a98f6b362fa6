"""Exported files for tests: a shipped student as student.onnx with its record beside it, as an export leaves it; and files of other frameworks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillctl import state
from distillctl.config import ModelConfig
from distillctl.formats import format_of
from distillctl.formats.format import Form
from distillctl.formats.program import Preprocess, Program
from distillctl.inputs import from_record
from distillctl.metrics.cost import macs, parameters
from distillctl.models.obtain import Obtained, obtain
from distillctl.models.record import Exported, Record
from distillctl.models.shipping import METADATA, read_record


def shipped(weights: Path) -> tuple[Obtained, Record]:
    """A .safetensors file of ours as a model."""
    record = read_record(weights, "checkpoint")
    assert record is not None
    return obtain(ModelConfig(name="recorded", checkpoint=str(weights)), from_record(record), "model", seed=0), record


def export(weights: Path, file: Path, preprocess: str = "inside", temperature: float | None = None, beside: bool = True) -> Record:
    """Write a shipped student as an ONNX file with its record in it, and with `beside` as a JSON file beside it too. Returns the record."""
    model, record = shipped(weights)
    net, inputs = model.classifier.eval(), model.inputs
    told = inputs.record()
    size = told["image_size"]
    before = Preprocess(size, told["resize"], told["mean"], told["std"]).eval() if preprocess == "inside" else None
    example = torch.zeros(2, size + 3, size, 3, dtype=torch.uint8) if before is not None else torch.zeros(2, 3, size, size)
    about = Exported("onnx", preprocess, "fp32", parameters(net), macs(net, inputs.example(1, torch.device("cpu"))))
    record = replace(record, temperature=temperature, exported=about)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {METADATA: json.dumps(record.essence(), sort_keys=True)}
    format_of("onnx").write(Program(net.net, before, temperature or 1.0).eval(), example, file, Form(preprocess), metadata)
    record = replace(record, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    if beside:
        state.write_json(file.with_suffix(".json"), record.to_json())
    return record


def with_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    """The same file with other words in it."""
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, file)


def foreign(net: torch.nn.Module, file: Path, size: int, batch: int | None = None) -> None:
    """What another project's script leaves: torch's exporter, no metadata, float [N, 3, S, S] in, one output."""
    dynamic: Any = ({0: torch.export.Dim("n", min=1)},) if batch is None else None
    example = torch.zeros(batch or 2, 3, size, size)
    exported = torch.onnx.export(
        net.eval(),
        (example,),
        dynamo=True,
        external_data=False,
        dynamic_shapes=dynamic,
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    assert exported is not None
    exported.save(str(file))


def dense(
    file: Path,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    shape: Sequence[int | str],
    *,
    kind: str = "float",
    before: Sequence[Any] = (),
    softmax: bool = False,
    initial: Mapping[str, np.ndarray] | None = None,
) -> None:
    """A graph by hand: an input `x` of a shape, what `before` makes of it (nodes from x to h), MatMul, Add and Relu, and with `softmax` probabilities."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    types = {"float": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "half": TensorProto.FLOAT16}
    nodes, name = list(before), "h" if before else "x"
    values = dict(initial or {})
    for number, (weight, bias) in enumerate(layers):
        dtype = np.float16 if kind == "half" else np.float32
        values |= {f"w{number}": weight.astype(dtype), f"b{number}": bias.astype(dtype)}
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Add", [f"m{number}", f"b{number}"], [f"a{number}"]))
        name = f"a{number}"
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"r{number}"]))
            name = f"r{number}"
    if softmax:
        nodes.append(helper.make_node("Softmax", [name], ["p"], axis=-1))
        name = "p"
    made = TensorProto.FLOAT16 if kind == "half" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", types[kind], list(shape))],
        [helper.make_tensor_value_info(name, made, ["n", layers[-1][0].shape[1]])],
        [numpy_helper.from_array(value, key) for key, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, file)
