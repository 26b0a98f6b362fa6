"""A program as torch.export sees it, which every format but ONNX begins with, and why a net cannot be exported."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distillctl.errors import ConfigError, first_line
from distillctl.formats.format import IMAGE, PIXELS, Form

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distillctl.formats.program import Program

OPERATOR = re.compile(r"(?:aten|torchvision|prims|torch\.ops\.\w+|_higher_order_ops)[.:]+\w+(?:\.\w+)?")
KNOWN = {  # what torch says, and what that means
    r"(?i)data-dependent (?:expression|control flow|branching)[^\n]*": "its path depends on values of its input, where a file holds one path",
    r"specialized it to be a constant[^\n.]*": "its code holds for one number of samples alone, as `len(images)` makes it; `images.shape[0]` does not",
}


def kind_of(form: Form) -> str:
    """What the file takes."""
    return IMAGE if form.preprocess == "inside" else PIXELS


def dynamic(kind: str, batch: bool = True, flexible: bool = True) -> dict[int, Any]:
    """What of the input may be of any size. batch: the number of samples. flexible: the edges of images."""
    from torch.export import Dim

    sizes: dict[int, Any] = {0: Dim("n", min=1)} if batch else {}
    return sizes | {1: Dim("h", min=2), 2: Dim("w", min=2)} if kind == IMAGE and flexible else sizes


def exported(program: Program, example: Any, sizes: dict[int, Any], name: str) -> ExportedProgram:
    """A program in eval mode, traced, and where that does not do by its code. Raises ConfigError, for the format of that name, where neither does."""
    import torch

    def tried(strict: bool) -> ExportedProgram:
        return torch.export.export(program, (example,), dynamic_shapes=(sizes or None,), strict=strict)

    with explained(name), torch.no_grad():
        try:
            return tried(strict=False)
        except Exception as error:
            with contextlib.suppress(Exception):
                return tried(strict=True)
            raise error


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """An exporter may object to a net in any way it likes: one line, as a ConfigError. What it prints is for who works on it."""
    try:
        with silenced():
            yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"export.format={name}: {reason_of(error)}") from None


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """What the exporter prints and warns of is for who works on it; what goes wrong it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """What libraries write to the terminal past Python: of this process, so nothing else should be said meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with open(os.devnull, "wb") as nowhere, silenced():
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        for number, handle in enumerate(kept, start=1):
            os.dup2(handle, number)
            os.close(handle)


def reason_of(error: BaseException) -> str:
    """Why a net cannot be exported: the operator that has no counterpart, else what the exporter says first."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain and len(chain) < 12:
        chain.append(inner)
    for each in reversed(chain):
        text = str(each)
        for said, reason in KNOWN.items():
            if found := re.search(said, text):
                return f"the net cannot be exported: {reason} ({found.group()[:200]})"
        if found := OPERATOR.search(text):
            return f"the net cannot be exported: {found.group()} ({first_line(each)[:200]})"
    return f"the net cannot be exported ({type(chain[-1]).__name__}: {first_line(chain[-1])[:250]})"
