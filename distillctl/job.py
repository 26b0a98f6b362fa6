"""One job of the command line: run a command on a composed config; every failure becomes one line, a record and an exit code. No torch here."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from distillctl import interruption, requeue
from distillctl.commands import COMMANDS
from distillctl.errors import INTERNAL_ERROR, Interrupted, MachineError, UserError, first_line
from distillctl.invocation import Invocation, going_on
from distillctl.terminal import complain, complain_of, leave_the_pipe, say


def task(composed: Any, again: Sequence[str] = ()) -> Any:
    """Of a single run its failure ends the process, of a sweep it is recorded and the others go on."""
    from hydra.core.hydra_config import HydraConfig

    from distillctl import compose

    hydra_config = HydraConfig.get()
    command, folder = str(hydra_config.job.config_name), Path(hydra_config.runtime.output_dir)
    if not in_sweep():
        done = requeue.is_again() and begun_before(command, composed, folder, compose.typed_words())
        return None if done else perform(command, composed, folder, again=again)
    if interruption.asked() and launched():
        return no_result(composed)  # this process was asked to stop in the job before
    try:
        if begun_before(command, composed, folder, None):
            return no_result(composed)
        return perform(command, composed, folder, again=again, whole=Path(hydra_config.sweep.dir))
    except SystemExit as leaving:
        if isinstance(leaving.code, int) and leaving.code > 128 and not launched():
            raise
        return no_result(composed)  # what went wrong is in the job's folder, and what went worst becomes the exit code of the sweep


def no_result(composed: Any) -> Any:
    """Of a job, for a sweeper, in the form that it was told to expect."""
    told = composed.get("objective")
    return (float("nan"),) * len(told) if isinstance(told, Sequence) and not isinstance(told, str) else float("nan")


def begun_before(command: str, composed: Any, folder: Path, words: Sequence[str] | None) -> bool:
    """Whether a job is done that goes on in its folder; one that has begun is made to resume. Leaves where its record cannot be read.

    words: of a run that a scheduler starts again, so that none of another job is taken for it; None: the folder is that of our own sweep.
    """
    from omegaconf import open_dict

    from distillctl import outputs
    from distillctl.compose import resume
    from distillctl.runs import sweep_folder

    if words is None and sweep_folder.is_done(folder):
        say(f"done before: {folder}", patient=True)
        return True
    if words is None:
        (folder / sweep_folder.FAILURE_FILE).unlink(missing_ok=True)
    if not os.path.lexists(folder / outputs.RUN_FILE):
        return False
    try:
        record = outputs.read_run(folder)
        if words is not None and not requeue.is_mine(record, words):
            return False  # claiming the folder will say so
        if record.get("status") == "done":
            resume.show_finished(folder, record)
            return True
    except UserError as error:
        fail(error)
    with open_dict(composed):
        composed.resume = str(folder)
    return False


def broken_off(error: BaseException, command: str, again: Sequence[str]) -> NoReturn:
    """A sweep that its launcher did not bring to an end: the table of what there is, and how to go on."""
    from distillctl.runs import sweep, sweep_folder

    folder = next(reversed(sweep_folder.CLAIMED), None)
    if folder is None:
        raise error
    with contextlib.suppress(SystemExit):
        sweep.leave_by_the_worst(folder)
    what = "interrupted" if isinstance(error, KeyboardInterrupt) else f"the launcher gave up ({type(error).__name__}: {first_line(error)})"
    line = f"{what}; go on with: {going_on(command, folder, again)}"
    fail(Interrupted(line, signal.SIGINT) if isinstance(error, KeyboardInterrupt) else MachineError(line))


def launched() -> bool:
    """Whether a launcher has started this process for jobs of a sweep, which wait for each other's ends in another one."""
    return multiprocessing.parent_process() is not None


def perform(
    command: str, composed: Any, folder: Path | None, entry: str = "run", again: Sequence[str] = (), whole: Path | None = None
) -> Any:
    """Check the config and run the command, or another `entry` of its module.

    again: words that going on with this run needs. whole: the folder of the sweep that it is a job of.
    """
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
        asked = compose.invocation(command, composed, compose.typed_words(), again, whole)
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
            from distillctl.runs import sweep_folder

            state.write_json(folder / sweep_folder.FAILURE_FILE, {"error": first_line(error), "exit_code": exit_code})


def in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def fail(error: UserError) -> NoReturn:
    """Print the problem, one line each, and leave with its exit code."""
    complain_of(error)
    raise SystemExit(error.exit_code)
