"""LiteRT, once TensorFlow Lite: one .tflite file for phones and for this machine, one image at a time; its weights as float32 or as int8."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl import state
from distillctl.errors import CheckpointError, MachineError, first_line
from distillctl.formats.exporting import explained, muted
from distillctl.formats.format import Form, Format, PlainRunner, Takes, content_of, plainly
from distillctl.formats.trailer import metadata_at_end, with_metadata

if TYPE_CHECKING:
    from distillctl.formats.program import Program

TOO_NEW = (2, 15)  # of torch, for the converter
MARK = b"TFL3"  # bytes 4 to 8 of every file


class LiteRt(Format):
    # batch: the converter refuses a number of samples that is not known, and the runtime to change it later
    name, suffix, runtime, extra = "litert", ".tflite", "LiteRT", "litert"
    writes_by, runs_by = ("litert_torch",), ("ai_edge_litert",)
    flexible = batch = False
    precisions = ("fp32", "int8")

    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        """precision int8: its dynamic range, weights in int8 and activations as they come, which needs no samples."""
        self.check_can_write(f"export.format={self.name}")
        import torch

        with muted(), explained(self.name), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            import litert_torch

            made = Path(folder) / "model.tflite"
            litert_torch.convert(program, (example,)).export(str(made))
            content = made.read_bytes() if form.precision == "fp32" else dynamic_range(made)
        state.write_atomically(file, [with_metadata(content, metadata)])

    def open(self, file: Path, threads: int = 1) -> LiteRtFile:
        self.check_can_run(str(file))
        return LiteRtFile(file, threads)

    def metadata(self, file: Path) -> Mapping[str, str]:
        return metadata_at_end(file)

    def check_can_write(self, asked: str) -> None:
        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "0"
        if tuple(int(part) for part in torch.split("+")[0].split(".")[:2] if part.isdigit()) >= TOO_NEW:
            raise MachineError(
                f"{asked}: litert-torch works with torch below 2.15, and this is {torch}; make an environment with torch<2.15 for it"
            )
        super().check_can_write(asked)


def dynamic_range(made: Path) -> bytes:
    """The same model with weights in int8."""
    from ai_edge_quantizer import quantizer, recipe

    return bytes(quantizer.Quantizer(str(made), recipe.dynamic_wi8_afp32()).quantize().quantized_model)


class LiteRtFile(PlainRunner):
    """In LiteRT, of any converter: one input; logits are the second output of two, else the only one."""

    def __init__(self, file: Path, threads: int = 1):
        self.file, content = file, content_of(file)
        if content[4:8] != MARK:
            raise CheckpointError(f"{file}: no model of LiteRT")
        try:
            with muted():
                from ai_edge_litert.interpreter import Interpreter

                self.interpreter = Interpreter(model_content=content, num_threads=threads)
                self.interpreter.allocate_tensors()
                inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
                names = [name for each in self.interpreter.get_signature_list().values() for name in each["outputs"]]
        except Exception as error:
            raise CheckpointError(f"{file}: no model of LiteRT that can be run here ({first_line(error)[:200]})") from None
        if len(inputs) != 1:
            raise CheckpointError(f"{file}: it takes {len(inputs)} inputs, and a classifier takes one")
        if not 1 <= len(outputs) <= 2 or any(len(each["shape"]) != 2 for each in outputs):
            raise CheckpointError(f"{file}: it answers with something else than logits [N, K], or probabilities and logits")
        self.input, self.outputs = inputs[0], in_order(outputs, names)
        self.takes = takes_of(file, self.input)

    def once(self, inputs: np.ndarray) -> list[np.ndarray]:
        try:
            self.interpreter.set_tensor(self.input["index"], np.ascontiguousarray(inputs, self.dtype))
            self.interpreter.invoke()
        except Exception as error:
            raise CheckpointError(f"{self.file}: LiteRT cannot run it on {list(inputs.shape)} ({first_line(error)[:200]})") from None
        return [self.interpreter.get_tensor(each["index"]) for each in self.outputs]


def in_order(outputs: Any, names: list[str]) -> list[Any]:
    """Probabilities, then logits: the runtime lists outputs in no order that it promises, their names end as the converter counted them."""
    return sorted(outputs, key=lambda each: next((place for place, name in enumerate(names) if name in each["name"]), 0))


def takes_of(file: Path, given: Any) -> Takes:
    shape, dtype = [int(edge) for edge in given["shape"]], np.dtype(given["dtype"])
    found = plainly(shape, dtype == np.uint8, dtype == np.float32)
    if found is None:
        raise CheckpointError(f"{file}: its input is {dtype} {shape}; images are uint8 [N, H, W, 3] or float32 [N, 3, H, W]")
    return found
