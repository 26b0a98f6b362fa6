"""onnx and onnxruntime, imported where they are first used; where one is missing, the line that installs it."""

from __future__ import annotations

import importlib
from typing import Any

from distillctl.errors import MachineError
from distillctl.extras import pip_line


def library(name: str) -> Any:
    """A module of one of the two. Raises MachineError where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise MachineError(f"quantising an ONNX file needs {missing}, which is not installed: {pip_line('onnx')}") from None


def onnx_library() -> Any:
    library("onnx.checker")
    return library("onnx")


def onnxruntime() -> Any:
    return library("onnxruntime")


def quantization() -> Any:
    """`onnxruntime.quantization`, which warns at each call that files were not prepared by it: ours are, by their exporter."""
    onnx_library()
    return library("onnxruntime.quantization")
