"""The command line as tests call it, and what a run of seconds is."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

# A run of seconds on one thread: what is tested is the command line, not the accuracy.
TINY = (
    *("teacher=resnet8", "student=resnet8", "pretrain.epochs=1", "distill.epochs=1", "finetune.epochs=0"),
    *("trainer.batch_size=64", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
)


class Finished(NamedTuple):
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


def call(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> Finished:
    """Run the command in this process, in `cwd`, as the shell would; a Python exception is a failed test."""
    from hydra.core.global_hydra import GlobalHydra

    from distillctl.cli import main

    out, err, before, code = io.StringIO(), io.StringIO(), Path.cwd(), 0
    GlobalHydra.instance().clear()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", ["distillctl", *map(str, argv)]))
        stack.enter_context(mock.patch.object(sys, "path", list(sys.path)))
        stack.enter_context(mock.patch.dict(os.environ, env or {}))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.callback(os.chdir, before)
        os.chdir(cwd)
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    GlobalHydra.instance().clear()
    return Finished(code, out.getvalue(), err.getvalue())
