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
