"""Core ML: a folder .mlpackage for iPhones and Macs. It is written anywhere, and runs on a Mac alone."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl.errors import CheckpointError, MachineError, first_line
from distillctl.formats.exporting import explained, exported, muted
from distillctl.formats.format import OUTPUTS, PIXELS, Form, Format, PlainRunner, Takes

if TYPE_CHECKING:
    from distillctl.formats.program import Program

MANIFEST = "Manifest.json"
THEIRS = "com.github.apple."  # what the converter adds of itself


class CoreMl(Format):
    # inside: it takes no uint8 tensors, and its images are scaled before a model sees them
    name, suffix, runtime, extra = "coreml", ".mlpackage", "Core ML", "coreml"
    writes_by = runs_by = ("coremltools",)
    inside = flexible = batch = False

    @property
    def elsewhere(self) -> str:
        return "" if sys.platform == "darwin" else "a Core ML model runs on a Mac alone, so it was not run here and is not verified"

    def write(self, program: Program, example: Any, file: Path, form: Form, metadata: Mapping[str, str]) -> None:
        """In float32; a Mac may still compute in float16, as whoever loads it chooses."""
        self.check_can_write(f"export.format={self.name}")
        import torch

        graph = exported(program, example, {}, self.name)
        with muted(), explained(self.name), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            import coremltools

            model = coremltools.convert(
                graph.run_decompositions({}),
                convert_to="mlprogram",
                inputs=[coremltools.TensorType(name=PIXELS, shape=tuple(example.shape))],
                outputs=[coremltools.TensorType(name=name) for name in OUTPUTS],
                compute_precision=coremltools.precision.FLOAT32,
                minimum_deployment_target=coremltools.target.iOS16,
                skip_model_load=True,
            )
            for key in list(model.user_defined_metadata):
                del model.user_defined_metadata[key]
            model.user_defined_metadata.update(sorted(metadata.items()))
            made = Path(folder) / "model.mlpackage"
            model.save(str(made))
            name_again(made)
            put(made, file)

    def open(self, file: Path, threads: int = 1) -> CoreMlFile:
        if self.elsewhere:
            raise MachineError(f"{file}: {self.elsewhere}")
        self.check_can_run(str(file))
        return CoreMlFile(file)

    def metadata(self, file: Path) -> Mapping[str, str]:
        self.check_can_run(str(file))
        told = dict(spec_of(file).description.metadata.userDefined)
        return {key: value for key, value in told.items() if not key.startswith(THEIRS)}

    def files(self, file: Path) -> tuple[Path, ...]:
        found = tuple(sorted(path for path in file.rglob("*") if path.is_file())) if file.is_dir() else ()
        if not found:
            raise CheckpointError(f"{file}: no folder of Core ML")
        return found


class CoreMlFile(PlainRunner):
    """On a Mac. Not run where this was written, which was none."""

    def __init__(self, file: Path):
        import coremltools

        self.file, spec = file, spec_of(file)
        inputs, outputs = spec.description.input, [each.name for each in spec.description.output]
        if len(inputs) != 1 or "logits" not in outputs:
            raise CheckpointError(
                f"{file}: it takes {len(inputs)} inputs and gives {', '.join(outputs)}; a classifier takes one and gives logits"
            )
        shape = list(inputs[0].type.multiArrayType.shape)
        if len(shape) != 4 or shape[1] != 3:
            raise CheckpointError(f"{file}: its input is {shape}; images are float32 [N, 3, H, W]")
        self.input, self.takes = inputs[0].name, Takes(PIXELS, shape[0], shape[2])
        self.model = coremltools.models.MLModel(str(file), compute_units=coremltools.ComputeUnit.CPU_ONLY)

    def once(self, inputs: np.ndarray) -> list[np.ndarray]:
        try:
            found = self.model.predict({self.input: np.ascontiguousarray(inputs, self.dtype)})
        except Exception as error:
            raise CheckpointError(f"{self.file}: Core ML cannot run it on {list(inputs.shape)} ({first_line(error)[:200]})") from None
        return [found["logits"]]


def spec_of(file: Path) -> Any:
    """What a model says of itself, read anywhere. Raises CheckpointError."""
    try:
        with muted():
            import coremltools

            return coremltools.utils.load_spec(str(file))
    except Exception as error:
        raise CheckpointError(f"{file}: no folder of Core ML ({first_line(error)[:200]})") from None


def name_again(folder: Path) -> None:
    """The same model is the same bytes: its parts are called by what they are, where they were called by chance."""
    manifest = folder / MANIFEST
    told = json.loads(manifest.read_text())
    entries = {str(uuid.uuid5(uuid.NAMESPACE_URL, each["path"])).upper(): each for each in told["itemInfoEntries"].values()}
    root = next(name for name, each in entries.items() if each["path"].endswith(".mlmodel"))
    told |= {"itemInfoEntries": dict(sorted(entries.items())), "rootModelIdentifier": root}
    manifest.write_text(json.dumps(told, indent=4, sort_keys=True) + "\n")


def put(made: Path, file: Path) -> None:
    """A folder in the place of another, which is away for a moment. Raises MachineError."""
    new = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(made, new)
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        os.rename(new, file)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise MachineError(f"{file}: cannot be written ({error.strerror})") from None
