"""ONNX: written by torch's exporter in one file, run by ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl import extras, state
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.formats.exporting import dynamic, explained, kind_of
from distillctl.formats.format import OUTPUTS, Form, Format, Runner, content_of, in_batches
from distillctl.formats.layout import layout_of

if TYPE_CHECKING:
    from distillctl.formats.program import Program

OPSET = 20  # GELU is an operator from here on
OPSETS = (18, 23)  # of the exporter, and what runtimes in use read
BIGGEST = 2**31 - 1  # bytes of a file of this format
QUIET = 3  # of ONNX Runtime: errors alone


class Onnx(Format):
    name, suffix, runtime, extra = "onnx", ".onnx", "ONNX Runtime", "onnx"
    writes_by = ("onnx", "onnxscript")
    runs_by = ("onnxruntime",)

    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        self.check_can_write(f"export.format={self.name}")
        import onnx
        import torch

        self.check_form(form)
        opset = form.opset or OPSET
        kind = kind_of(form)
        with explained(self.name), torch.no_grad():
            exported = torch.onnx.export(
                program,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=[kind],
                output_names=list(OUTPUTS),
                dynamic_shapes=(dynamic(kind),),
                verbose=False,
            )
            assert exported is not None
            model = exported.model_proto
        strip(model.graph)
        for function in model.functions:
            strip(function)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
        model.producer_name, model.producer_version = "distillctl", ""
        content = model.SerializeToString(deterministic=True)
        if len(content) > BIGGEST:
            raise ConfigError(
                f"export.format={self.name}: {len(content) / 1e9:.1f} GB are more than a file of this format holds; take export.format=torch_export"
            )
        state.write_atomically(file, [content])

    def check_form(self, form: Form) -> None:
        if form.opset is not None and not OPSETS[0] <= form.opset <= OPSETS[1]:
            raise ConfigError(
                f"export.opset={form.opset}: opsets {OPSETS[0]} to {OPSETS[1]} are written here; leave export.opset out for {OPSET}"
            )

    def open(self, file: Path, threads: int = 1) -> OnnxFile:
        self.check_can_run(str(file))
        return OnnxFile(file, threads)

    def metadata(self, file: Path) -> Mapping[str, str]:
        self.check_can_run(str(file))
        found: Mapping[str, str] = opened(file, threads=1, optimised=False).get_modelmeta().custom_metadata_map
        return found

    def parameters(self, file: Path) -> int:
        if not extras.is_installed("onnx"):
            return 0
        import onnx

        try:
            graph = onnx.load_model_from_string(file.read_bytes()).graph
        except Exception:  # whoever runs it says what is wrong with it
            return 0
        return sum(math.prod(values.dims) for values in graph.initializer if values.data_type in (1, 10, 11, 16))  # the kinds of floats


class OnnxFile(Runner):
    """In ONNX Runtime, of any exporter: one input, and logits by that name, else the only output that is [N, K].

    smallest: positive number that its output tells from zero.
    """

    def __init__(self, file: Path, threads: int = 1):
        self.file, self.session = file, opened(file, threads)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1:
            raise CheckpointError(
                f"{file}: it takes {len(inputs)} inputs ({', '.join(each.name for each in inputs)}), and a classifier takes one"
            )
        self.input = inputs[0]
        self.output, kind = output_of(file, outputs)
        self.smallest = float(np.finfo(np.float16 if kind == "tensor(float16)" else np.float32).smallest_normal)
        self.layout = layout_of(file, self.input.name, self.input.type, self.input.shape)
        self.takes = self.layout.takes

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.run((self.output,), inputs)[0]
        return found.astype(np.float32, copy=False)

    def run(self, outputs: tuple[str, ...], inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of these names. A file for one number of samples is given so many at a time."""
        return in_batches(lambda part: self.once(outputs, part), inputs, self.takes.batch)

    def once(self, outputs: tuple[str, ...], inputs: np.ndarray) -> list[np.ndarray]:
        try:
            found: list[np.ndarray] = self.session.run(list(outputs), {self.input.name: self.layout.laid(inputs)})
        except Exception as error:
            raise CheckpointError(f"{self.file}: ONNX Runtime cannot run it on {list(inputs.shape)} ({first_line(error)[:300]})") from None
        return found


def opened(file: Path, threads: int, optimised: bool = True) -> Any:
    """A session. From bytes: what lies in other files is no part of a model here, and no path in it is followed."""
    return session_of(content_of(file), str(file), threads, optimised)


def session_of(content: bytes, name: str, threads: int = 1, optimised: bool = True) -> Any:
    """The same of what a file holds. name: as it is called in errors. Raises CheckpointError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, QUIET
    if threads > 1:
        # they would take the cores from torch, which works in turn
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds of exceptions are not exported
        reason = first_line(error)[:300]
        if "external" in reason.lower():
            raise CheckpointError(
                f"{name}: its weights lie in another file, and half a model is none; export it into one file (external_data=False)"
            ) from None
        raise CheckpointError(f"{name}: no ONNX model that can be run here ({reason})") from None


def output_of(file: Path, outputs: Any) -> tuple[str, str]:
    """The name of the logits, and what they are made of."""
    flat = [each for each in outputs if each.type in ("tensor(float)", "tensor(float16)", "tensor(double)") and len(each.shape) == 2]
    named = [each for each in flat if each.name == "logits"]
    if len(named or flat) != 1:
        shapes = ", ".join(f"{each.name} {each.shape}" for each in outputs)
        raise CheckpointError(f"{file}: which of its outputs are logits [N, K]? It has {shapes}; call one of them logits")
    [found] = named or flat
    return str(found.name), str(found.type)


def strip(graph: Any) -> None:
    """Take away what the exporter says of where each node came from: paths of this machine among it, and a third of a small file."""
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    strip(inner)
    for values in (graph.value_info, getattr(graph, "initializer", ()), graph.input, graph.output):
        for value in values:
            if hasattr(value, "metadata_props"):
                value.ClearField("metadata_props")
