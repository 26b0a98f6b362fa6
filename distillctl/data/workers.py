"""Read items by processes of their own: their problems come back as they are, and none of them is waited for in vain."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any

import numpy.random  # noqa: F401  (torch's workers use it first thing; an import while they start has failed)
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from distillctl.errors import WORKER_DIED, MachineError, UserError
from distillctl.interruption import ASKING, held_back

WORKER_HANGS = "a data worker hangs; raise dataset.timeout_s, or set dataset.workers=0 to see the cause"
DEATH_S = 0.5


@dataclass(frozen=True)
class Workers:
    """How many processes read; 0: this one does. timeout_s: how long a batch may take them."""

    count: int = 0
    timeout_s: int = 300


def read_by_workers(files: Dataset[Tensor], rows: list[Tensor], options: Workers, device: torch.device) -> Iterator[Tensor]:
    """Batches of the given positions, on the device. Raises what a file's reader raised, whichever process it was."""
    loader = DataLoader(
        ErrorsAsItems(files),
        batch_sampler=[row.tolist() for row in rows],
        num_workers=options.count,
        collate_fn=collate,
        worker_init_fn=leave_signals_to_the_run,
        timeout=options.timeout_s if options.count else 0,
        pin_memory=device.type == "cuda",
        # a loader without one would draw its base seed from the global stream, and shift what comes after
        generator=torch.Generator(),
        prefetch_factor=4 if options.count else None,
    )
    with held_back():  # until the workers ignore them
        batches: Any = iter(loader)
    workers = getattr(batches, "_workers", ())
    # an error elsewhere keeps the frames that it went through, and ours with its workers; before Python waits for them when it leaves
    leaving = Finalize(None, kill, (batches, workers), exitpriority=100)
    try:
        if any(worker.exitcode for worker in workers):  # before torch watched over it
            raise MachineError(WORKER_DIED)
        for pixels in batches:
            if isinstance(pixels, UserError):
                raise pixels
            yield pixels.to(device, non_blocking=True)
    except Exception as error:
        if not isinstance(error, UserError):  # a broken connection may be noticed before the death that broke it
            wait([worker.sentinel for worker in workers], timeout=DEATH_S)
        cut_off = isinstance(
            error, (EOFError, ConnectionError)
        )  # in the middle of a batch: on a busy machine before anyone knows of a death
        died, hangs = bool(workers) and (cut_off or any(worker.exitcode for worker in workers)), "DataLoader timed out" in str(error)
        if died or hangs:
            kill(batches, workers)
        elif workers:  # now: left to the garbage collector, which takes it apart in any order, it waits for what is gone already
            batches._shutdown_workers()
        if (died or hangs) and not isinstance(error, UserError):
            raise MachineError(WORKER_DIED if died else WORKER_HANGS) from error
        raise
    finally:
        leaving.cancel()


def kill(batches: Any, workers: Sequence[Any]) -> None:
    """End workers one of which is dead or stuck: the others may wait for what it holds, and they ignore gentler signals."""
    for worker in workers:
        for way in (worker.kill, worker.join):
            with contextlib.suppress(RuntimeError):  # torch's alarm that a worker died
                way()
    batches._shutdown = True  # nobody is left to be told


def leave_signals_to_the_run(worker: int) -> None:
    """A Ctrl-C reaches the whole group: workers must live until the run has saved."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


class ErrorsAsItems(Dataset[Any]):
    """Files whose problems are items like any other: as exceptions they would come from a worker as a page of text."""

    def __init__(self, files: Dataset[Tensor]):
        self.files = files

    def __getitem__(self, position: int) -> Tensor | UserError:
        try:
            return self.files[position]
        except UserError as problem:
            return problem


def collate(items: list[Tensor | UserError]) -> Tensor | UserError:
    """One batch of many items, or the first problem among them."""
    return next((item for item in items if isinstance(item, UserError)), None) or default_collate(items)
