"""Files that run without our code: how each kind is written, and how it is run again. No torch is imported before a file is written."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

from distillctl.formats.format import Format

HOMES = {  # the name of a format, which is that of its file here, and its class
    "onnx": "Onnx",
    "torch_export": "TorchExport",
    "openvino": "OpenVino",
    "litert": "LiteRt",
    "executorch": "ExecuTorch",
    "coreml": "CoreMl",
}
SUFFIXES = {
    ".onnx": "onnx",
    ".pt2": "torch_export",
    ".xml": "openvino",
    ".tflite": "litert",
    ".pte": "executorch",
    ".mlpackage": "coreml",
}


@cache
def format_of(name: str) -> Format:
    """A format by its name."""
    found: type[Format] = getattr(import_module(f"distillctl.formats.{name}"), HOMES[name])
    return found()


def by_file(path: Path) -> Format | None:
    """The format of a file by its suffix; None of weights, and of anything else."""
    name = SUFFIXES.get(path.suffix.lower())
    return None if name is None else format_of(name)


def form_of(file: Path) -> Format:
    """The same of a file that is known to be an exported one."""
    found = by_file(file)
    assert found is not None, file
    return found


def bytes_of(file: Path) -> int:
    """How much a model file, whatever it is, takes on the disk with all that belongs to it; of a folder all files in it."""
    form = by_file(file)
    if form is not None:
        parts = form.files(file)
    else:
        parts = tuple(part for part in file.rglob("*") if part.is_file()) if file.is_dir() else (file,)
    return sum(part.stat().st_size for part in parts)
