"""ExecuTorch: one .pte file for phones and small devices, its layers on XNNPACK, one image at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl import state
from distillctl.errors import CheckpointError, first_line
from distillctl.formats.exporting import explained, exported, muted
from distillctl.formats.format import Form, Format, PlainRunner, Takes, content_of, plainly
from distillctl.formats.trailer import metadata_at_end, with_metadata

if TYPE_CHECKING:
    from distillctl.formats.program import Program

MARK = b"ET12"  # bytes 4 to 8 of every file
BYTE, FLOAT = 0, 6  # dtypes as torch numbers them in C++


class ExecuTorch(Format):
    # batch: memory is planned when a file is written, for the largest number of samples that it may be given
    name, suffix, runtime, extra = "executorch", ".pte", "ExecuTorch", "executorch"
    writes_by = runs_by = ("executorch",)
    flexible = batch = False

    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        self.check_can_write(f"export.format={self.name}")
        import torch

        graph = exported(program, example, {}, self.name)
        with muted(), explained(self.name), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            content = bytes(to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
        state.write_atomically(file, [with_metadata(content, metadata)])

    def open(self, file: Path, threads: int = 1) -> ExecuTorchFile:
        self.check_can_run(str(file))
        return ExecuTorchFile(file, threads)

    def metadata(self, file: Path) -> Mapping[str, str]:
        return metadata_at_end(file)


class ExecuTorchFile(PlainRunner):
    """In ExecuTorch's Python runtime, of any exporter: one input; logits are the second output of two, else the only one."""

    def __init__(self, file: Path, threads: int = 1):
        self.file, self.content = file, content_of(file)
        if self.content[4:8] != MARK:
            raise CheckpointError(f"{file}: no program of ExecuTorch")
        try:
            with muted():
                from executorch.extension.pybindings import portable_lib
                from executorch.runtime import Runtime, Verification

                if hasattr(portable_lib, "_unsafe_reset_threadpool"):
                    portable_lib._unsafe_reset_threadpool(threads)
                self.program = Runtime.get().load_program(self.content, verification=Verification.InternalConsistency)
                self.method = self.program.load_method("forward")
                about = self.method.metadata
        except Exception as error:
            raise CheckpointError(f"{file}: no program of ExecuTorch that can be run here ({first_line(error)[:200]})") from None
        if about.num_inputs() != 1 or about.num_outputs() not in (1, 2):
            raise CheckpointError(
                f"{file}: it takes {about.num_inputs()} inputs and gives {about.num_outputs()} outputs, where a classifier takes one and gives logits"
            )
        self.takes = takes_of(file, about.input_tensor_meta(0))
        self.shape = tuple(about.input_tensor_meta(0).sizes())

    def once(self, inputs: np.ndarray) -> list[np.ndarray]:
        import torch

        if inputs.shape != self.shape:  # the runtime would say so line by line on the terminal
            raise CheckpointError(f"{self.file}: it takes {list(self.shape)}, not {list(inputs.shape)}")
        try:
            found = self.method.execute([torch.from_numpy(np.ascontiguousarray(inputs, self.dtype))])
        except Exception as error:
            raise CheckpointError(f"{self.file}: ExecuTorch cannot run it ({first_line(error)[:200]})") from None
        if not all(each.ndim == 2 for each in found):
            raise CheckpointError(f"{self.file}: it answers with something else than logits [N, K], or probabilities and logits")
        return [each.numpy().copy() for each in found]


def takes_of(file: Path, given: Any) -> Takes:
    shape, dtype = list(given.sizes()), int(given.dtype())
    found = plainly(shape, dtype == BYTE, dtype == FLOAT)
    if found is None:
        raise CheckpointError(f"{file}: its input is {shape} of dtype {dtype}; images are uint8 [N, H, W, 3] or float32 [N, 3, H, W]")
    return found
