"""One job of the command line: run a command on a composed config; every failure becomes one line, a record and an exit code. No torch here."""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from distillctl.commands import COMMANDS
from distillctl.errors import INTERNAL_ERROR, UserError, first_line
from distillctl.invocation import Invocation
from distillctl.terminal import complain, complain_of, leave_the_pipe


def task(composed: Any, again: Sequence[str] = ()) -> Any:
    """Of a single run its failure ends the process, of a sweep it is recorded and the others go on."""
    from hydra.core.hydra_config import HydraConfig

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        return perform(str(hydra_config.job.config_name), composed, folder, again=again)
    except SystemExit as leaving:
        interrupted = isinstance(leaving.code, int) and leaving.code > 128
        if not in_sweep() or interrupted:
            raise
        told = composed.get("objective")
        return (float("nan"),) * len(told) if isinstance(told, Sequence) and not isinstance(told, str) else float("nan")


def perform(command: str, composed: Any, folder: Path | None, entry: str = "run", again: Sequence[str] = ()) -> Any:
    """Check the config and run the command, or another `entry` of its module. again: words that going on with this run needs."""
    from distillctl import compose

    asked = None
    try:
        config = compose.typed(composed)
        if composed.get("resume") and (folder is not None or entry != "run"):
            from distillctl.compose import resume

            resume.check_unchanged(folder or Path(composed.resume), composed)
        module = importlib.import_module(f"distillctl.commands.{COMMANDS[command].home or command}")
        if entry != "run":
            return getattr(module, entry)(config)
        asked = compose.invocation(command, composed, compose.typed_words(), again)
        return module.run(config, folder, *([asked] if COMMANDS[command].keeps else []))
    except UserError as error:
        record(folder, error, error.exit_code, asked)
        fail(error)
    except BrokenPipeError:
        leave_the_pipe()
    except Exception as error:
        explained = compose.explain(error, command, compose.typed_words()) or machine_trouble(error)
        if explained is not None:
            record(folder, explained, explained.exit_code, asked)
            fail(explained)
        if folder is None or composed.get("debug"):
            raise
        record(folder, error, INTERNAL_ERROR, asked)
        from distillctl import state

        log = folder / "error.log"
        with contextlib.suppress(UserError):
            state.write_atomically(log, [traceback.format_exc().encode(errors="backslashreplace")])
        complain(f"error: internal: {type(error).__name__}: {first_line(error)}; the traceback is in {log}")
        raise SystemExit(INTERNAL_ERROR) from None


def machine_trouble(error: Exception) -> UserError | None:
    """Memory, disk and workers that gave out, whoever noticed."""
    from distillctl import runtime

    return runtime.explain(error)


def record(folder: Path | None, error: Exception, exit_code: int, asked: Invocation | None) -> None:
    """Write into run.json why a run ended, if it had begun."""
    if folder is None:
        return
    with contextlib.suppress(UserError):
        if (folder / "run.json").is_file():
            from distillctl import outputs

            if asked is not None:
                outputs.record_failure(folder, first_line(error), exit_code, asked.mark)
        elif in_sweep():
            from distillctl import state
            from distillctl.runs import sweep

            state.write_json(folder / sweep.FAILURE_FILE, {"error": first_line(error), "exit_code": exit_code})


def in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def fail(error: UserError) -> NoReturn:
    """Print the problem, one line each, and leave with its exit code."""
    complain_of(error)
    raise SystemExit(error.exit_code)
