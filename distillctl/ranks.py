"""Several processes for one run: start them, watch over them, and say in one line what became of them."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from distillctl.errors import Interrupted, MachineError, UserError
from distillctl.interruption import PARENT, StopRequest, held_back
from distillctl.rank import Rank
from distillctl.terminal import complain

Figures = float | tuple[float, ...]  # what a sweeper is told of a run
Work = Callable[[Any, "Path | None"], "Figures | None"]
GRACE_S = 30.0  # for the ranks that are left to notice that one is gone


def launch(work: Work, config: Any, folder: Path | None) -> Figures | None:
    """Run `work` here, or in `trainer.devices` processes of this machine; under torchrun this process is a rank already."""
    count = config.trainer.devices
    if count == 1 or Rank.is_given():
        return work(config, folder)
    check_devices(config, count)
    context = multiprocessing.get_context("spawn")
    port = free_port()
    pipes, processes = [], []
    with StopRequest() as stop:
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            place = Rank(rank, count, rank, count).variables() | {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                PARENT: str(os.getpid()),
            }
            process = context.Process(target=be_rank, args=(work, config, folder, place, theirs), daemon=False)
            with held_back():  # a rank that has no handlers yet must not die of what we pass on
                process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            return watch_over(processes, pipes, stop)
        except Interrupted as error:  # the ranks know that they were asked, we know by what
            raise Interrupted(str(error), stop.signal_number or error.exit_code - 128) from None


def check_devices(config: Any, count: int) -> None:
    """More processes than GPUs is a mistake that is better found before they are started."""
    from distillctl.runtime import choose_device

    if choose_device(config.trainer.device).type == "cuda":
        choose_device("cuda", local_rank=count - 1, world=count)


def watch_over(processes: list[Any], pipes: list[Connection], stop: StopRequest) -> Figures | None:
    """Wait for all ranks; when one fails, end the others and raise the first failure."""
    running = {process.sentinel: rank for rank, process in enumerate(processes)}
    answers: dict[int, tuple[str, Any, Any]] = {}
    first_dead: int | None = None
    deadline, asked = float("inf"), False
    while running:
        ready = wait([*running, *(pipe for pipe in pipes if not pipe.closed)], timeout=0.2)
        for rank, pipe in enumerate(pipes):
            if pipe in ready:
                try:
                    answers[rank] = pipe.recv()
                except EOFError:
                    pipe.close()
        for sentinel in [item for item in ready if item in running]:
            rank = running.pop(sentinel)
            processes[rank].join()
            if processes[rank].exitcode and first_dead is None:
                first_dead, deadline = rank, time.monotonic() + GRACE_S
                with contextlib.suppress(EOFError):  # it ended without a word
                    if rank not in answers and not pipes[rank].closed and pipes[rank].poll():
                        answers[rank] = pipes[rank].recv()
                if rank not in answers:  # killed: it cannot tell the others, and they would wait for it
                    deadline = time.monotonic() + 2
        if stop() and not asked:
            asked = True
            for process in processes:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGUSR1)
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
    return judge(processes, answers, first_dead)


def judge(processes: list[Any], answers: dict[int, tuple[str, Any, Any]], first_dead: int | None) -> Figures | None:
    """The result of rank 0, or the failure that came first: one that a rank can explain beats one that it cannot."""
    if first_dead is None:
        return answers.get(0, ("done", None, None))[1]
    told = [(rank, answer) for rank, answer in sorted(answers.items()) if answer[0] == "user"]
    if told:
        rank, (_, kind, details) = told[0]
        raise rebuilt(kind, details)
    killed = [rank for rank, process in enumerate(processes) if (process.exitcode or 0) < 0 and rank not in answers]
    if killed:
        rank = first_dead if first_dead in killed else killed[0]  # we killed those that did not end by themselves
        name = signal.Signals(-processes[rank].exitcode).name
        raise MachineError(
            f"rank {rank} was killed ({name}), the others were ended; the last checkpoint is good, go on with resume=<run folder>"
        )
    rank, answer = next(
        ((rank, answer) for rank, answer in sorted(answers.items()) if answer[0] == "crash"), (first_dead, ("crash", "", ""))
    )
    complain(answer[2])
    raise MachineError(f"rank {rank} failed: {answer[1] or f'exit code {processes[rank].exitcode}'}; the others were ended")


def rebuilt(kind: type[UserError], details: tuple[tuple[str, ...], int]) -> UserError:
    problems, exit_code = details
    return Interrupted(problems[0], exit_code - 128) if issubclass(kind, Interrupted) else kind(*problems)


def be_rank(work: Work, config: Any, folder: Path | None, place: dict[str, str], pipe: Connection) -> None:
    """What a started process does: take its place, work, report. Signals are the parent's business."""
    import traceback

    die_with_parent()
    os.environ |= place
    try:
        pipe.send(("done", work(config, folder), None))
        leave()
    except UserError as error:
        pipe.send(("user", type(error), (error.problems, error.exit_code)))
        os._exit(error.exit_code)
    except Exception as error:
        from distillctl.runtime import explain

        explained = explain(error)
        if explained is not None:
            pipe.send(("user", type(explained), (explained.problems, explained.exit_code)))
        elif not lost_a_peer(error):
            pipe.send(("crash", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", traceback.format_exc()))
        os._exit(1)


def leave() -> NoReturn:
    """End this process, which is done, without tearing Python down.

    Threads of a process group outlive it while anything refers to it, and one that asks for the interpreter as that is torn down aborts the process.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def lost_a_peer(error: Exception) -> bool:
    """Whether another rank went first: then that one's story counts."""
    message = str(error)
    return any(sign in message for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL"))


def die_with_parent() -> None:
    """Linux: a rank whose parent is killed must not train on alone."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
