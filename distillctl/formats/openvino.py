"""OpenVINO: a graph in .xml and its weights in .bin beside it, two files that are one; run on the CPU in float32."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl import state
from distillctl.errors import CheckpointError, first_line
from distillctl.formats.exporting import dynamic, explained, exported, kind_of, silenced
from distillctl.formats.format import OUTPUTS, Form, Format, PlainRunner, Takes, content_of, plainly

if TYPE_CHECKING:
    from distillctl.formats.program import Program

PLACE = "distillctl"  # of the metadata, in what a graph says of itself
WEIGHTS = "weights_sha256"  # of the .bin, so that no graph is run with the weights of another


class OpenVino(Format):
    # flexible: with images of any size 2026.4 answers with what happened to lie in its memory (logits of 1e31, measured)
    name, suffix, runtime, extra = "openvino", ".xml", "OpenVINO", "openvino"
    writes_by = runs_by = ("openvino",)
    flexible = False

    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        self.check_can_write(f"export.format={self.name}")
        import openvino

        kind = kind_of(form)
        graph = exported(program, example, dynamic(kind, flexible=False), self.name)
        with explained(self.name):
            model = openvino.convert_model(graph)
            model.reshape({0: openvino.PartialShape([-1, *example.shape[1:]])})
            model.inputs[0].get_tensor().set_names({kind})
            for port, name in zip(model.outputs, OUTPUTS, strict=True):
                port.get_tensor().set_names({name})
        save(model, file, metadata)

    def open(self, file: Path, threads: int = 1) -> OpenVinoFile:
        self.check_can_run(str(file))
        return OpenVinoFile(file, threads)

    def metadata(self, file: Path) -> Mapping[str, str]:
        self.check_can_run(str(file))
        return told_by(read(file))

    def files(self, file: Path) -> tuple[Path, ...]:
        return (file, file.with_suffix(".bin"))


class OpenVinoFile(PlainRunner):
    """In OpenVINO, of any exporter: one input, and logits by that name, else the only output that is [N, K]."""

    def __init__(self, file: Path, threads: int = 1):
        import openvino

        self.file, model = file, read(file)
        if len(model.inputs) != 1:
            raise CheckpointError(f"{file}: it takes {len(model.inputs)} inputs, and a classifier takes one")
        self.takes = takes_of(file, model.inputs[0])
        flat = [port for port in model.outputs if len(port.partial_shape) == 2]
        named = [port for port in flat if "logits" in port.get_names()]
        if len(named or flat) != 1:
            raise CheckpointError(f"{file}: which of its {len(model.outputs)} outputs are logits [N, K]? Call one of them logits")
        self.output = model.outputs.index((named or flat)[0])
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self.model = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:
            raise CheckpointError(f"{file}: no OpenVINO model that can be run here ({reason_of(error)})") from None

    def once(self, inputs: np.ndarray) -> list[np.ndarray]:
        try:
            found = self.model(np.ascontiguousarray(inputs, self.dtype))
        except Exception as error:
            raise CheckpointError(f"{self.file}: OpenVINO cannot run it on {list(inputs.shape)} ({reason_of(error)})") from None
        return [np.array(found[place]) for place in range(len(found))]


def save(model: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write a model as its two files, the weights first. The same model gives the same bytes."""
    import openvino

    for key in list(model.rt_info):
        del model.rt_info[key]  # versions, and what a converter was called with
    model.set_friendly_name("net")
    for place, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{place}")  # OpenVINO counts what it has ever made in this process
    for key, value in sorted(metadata.items()):
        model.set_rt_info(value, [PLACE, key])
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.xml"
        openvino.save_model(model, graph, compress_to_fp16=False)
        weights = graph.with_suffix(".bin").read_bytes()
        model.set_rt_info(hashlib.sha256(weights).hexdigest(), [PLACE, WEIGHTS])
        openvino.save_model(model, graph, compress_to_fp16=False)
        content = graph.read_bytes()
    state.write_atomically(file.with_suffix(".bin"), [weights])
    state.write_atomically(file, [content])


def read(file: Path) -> Any:
    """A model, from bytes: no path in it is followed. Raises CheckpointError."""
    import openvino

    beside = file.with_suffix(".bin")
    content = content_of(file)
    if not beside.is_file():
        raise CheckpointError(f"{file}: {beside.name}, which holds its weights, does not lie beside it; copy both files")
    weights = content_of(beside)
    if not content.lstrip().startswith(b"<?xml") or b"<net" not in content[:4096]:
        raise CheckpointError(f"{file}: no graph of OpenVINO")
    try:
        with silenced():
            model = openvino.Core().read_model(content, weights)
    except Exception as error:
        raise CheckpointError(f"{file}: no graph of OpenVINO that can be read here ({reason_of(error)})") from None
    told = told_by(model, all_of_it=True).get(WEIGHTS)
    if told is not None and told != hashlib.sha256(weights).hexdigest():
        raise CheckpointError(f"{beside}: not the weights that {file.name} was written with; copy both files")
    return model


def told_by(model: Any, all_of_it: bool = False) -> dict[str, str]:
    if not model.has_rt_info([PLACE]):
        return {}
    found = model.get_rt_info([PLACE]).astype(dict)
    told = {str(key): str(getattr(value, "value", value)) for key, value in found.items()}
    return {key: value for key, value in told.items() if all_of_it or key != WEIGHTS}


def takes_of(file: Path, port: Any) -> Takes:
    shape = [None if edge.is_dynamic else edge.get_length() for edge in port.partial_shape]
    kind = port.get_element_type().get_type_name()
    found = plainly(shape, kind == "u8", kind in ("f32", "f16"))
    if found is None:
        raise CheckpointError(f"{file}: its input is {kind} {port.partial_shape}; images are u8 [N, H, W, 3] or f32 [N, 3, H, W]")
    return found


def reason_of(error: BaseException) -> str:
    """What OpenVINO says, behind where in its code it says so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(("Exception from", "Check '"))]
    return (lines or [first_line(error)])[0][:250]
