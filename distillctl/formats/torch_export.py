"""torch.export: a program as torch's own graph in one .pt2 file, run by torch without the code of the net."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl import state
from distillctl.entries import Malformed
from distillctl.errors import CheckpointError, ConfigError, first_line
from distillctl.formats import archive
from distillctl.formats.exporting import dynamic, explained, exported, kind_of, silenced
from distillctl.formats.format import Form, Format, PlainRunner, Takes, content_of, plainly

if TYPE_CHECKING:
    from distillctl.formats.program import Program

BYTE, FLOAT = 1, 7  # of torch's list of dtypes


class TorchExport(Format):
    name, suffix, runtime, extra = "torch_export", ".pt2", "torch", ""
    writes_by = runs_by = ("torch",)

    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        import torch

        kind = kind_of(form)
        with explained(self.name):
            found = exported(program, example, dynamic(kind), self.name)
            buffer = io.BytesIO()
            torch.export.save(found, buffer)
            try:
                content, _ = archive.cleaned(buffer.getvalue(), json.dumps(dict(metadata), sort_keys=True))
            except Malformed as error:
                raise ConfigError(f"export.format={self.name}: the net cannot be exported: of what torch writes of it, {error}") from None
        state.write_atomically(file, [content])

    def open(self, file: Path, threads: int = 1) -> Pt2File:
        return Pt2File(file, threads)

    def metadata(self, file: Path) -> Mapping[str, str]:
        try:
            found = archive.metadata_in(content_of(file))
        except Malformed as error:
            raise CheckpointError(f"{file}: no file of torch.export ({error})") from None
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


class Pt2File(PlainRunner):
    """In torch, of any exporter as long as nothing in it could be code: one input; logits are the second output of two, else the only one."""

    def __init__(self, file: Path, threads: int = 1):
        from torch.export.pt2_archive._package import load_pt2

        self.file, self.threads = file, threads
        try:
            content, program = archive.cleaned(content_of(file))
            self.takes = takes_of(program)
        except Malformed as error:
            raise CheckpointError(f"{file}: no file of torch.export that is read here ({error})") from None
        try:
            with silenced():
                self.module = load_pt2(io.BytesIO(content)).exported_programs["model"].module(check_guards=False)
        except Exception as error:  # whatever torch may meet in a graph that does not hang together
            raise CheckpointError(f"{file}: no file of torch.export that can be run here ({first_line(error)[:200]})") from None

    def once(self, inputs: np.ndarray) -> list[np.ndarray]:
        import torch

        before = torch.get_num_threads()
        if before != self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                found = self.module(torch.from_numpy(np.ascontiguousarray(inputs, self.dtype)))
        except Exception as error:
            raise CheckpointError(f"{self.file}: torch cannot run it on {list(inputs.shape)} ({first_line(error)[:200]})") from None
        finally:
            if before != self.threads:
                torch.set_num_threads(before)
        outputs = list(found) if isinstance(found, (tuple, list)) else [found]
        if not 1 <= len(outputs) <= 2 or not all(isinstance(each, torch.Tensor) and each.ndim == 2 for each in outputs):
            raise CheckpointError(f"{self.file}: it answers with something else than logits [N, K], or probabilities and logits")
        return [each.numpy() for each in outputs]


def takes_of(program: Mapping[str, Any]) -> Takes:
    """What the graph says of its only input. Raises Malformed."""
    try:
        module = program["graph_module"]
        given = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
        metas = [module["graph"]["tensor_values"][name] for name in given]
        shapes = [[size.get("as_int") for size in meta["sizes"]] for meta in metas]
        dtypes = [meta["dtype"] for meta in metas]
    except (KeyError, TypeError, AttributeError):
        raise Malformed("its graph does not say what it takes") from None
    if len(given) != 1:
        raise Malformed(f"it takes {len(given)} inputs, and a classifier takes one")
    shape, dtype = shapes[0], dtypes[0]
    found = plainly(shape, dtype == BYTE, dtype == FLOAT)
    if found is None:
        raise Malformed(f"its input is {shape} of dtype {dtype}; images are uint8 [N, H, W, 3] or float32 [N, 3, H, W]")
    return found
