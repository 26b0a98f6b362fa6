"""The most memory that a model file takes: loaded and asked in a fresh process, less what that took once its libraries were imported.

A runtime gives one function, `prepare(file, batch) -> answer`: it imports what it needs, and `answer()` loads the file and answers a batch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillctl.errors import MachineError

TIMEOUT_S = 600
IN_CHILD = (  # the folder that we were started in is no place to import from
    "import sys; sys.path[:] = [place for place in sys.path if place]; from distillctl.metrics.memory import report; report(*sys.argv[1:])"
)


def peak_memory_mb(prepare: Callable[[Path, int], Callable[[], Any]], file: Path, batch: int) -> float:
    """Megabytes (1e6 bytes) of resident memory. prepare: a function of a module, which the process finds again by its name.

    Raises MachineError where the process fails, with its last line.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IN_CHILD, prepare.__module__, prepare.__name__, str(file.resolve()), str(batch)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise MachineError(f"cost=true: the process that loads {file} to see its memory did not end within {TIMEOUT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MachineError(f"cost=true: the process that loads {file} to see its memory failed: {last}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["bytes"]) / 1e6


def report(module: str, name: str, file: str, batch: str) -> None:
    """What the fresh process does: it says the bytes as JSON."""
    from distillctl import trust
    from distillctl.terminal import say

    trust.let_in()
    answer = getattr(importlib.import_module(module), name)(Path(file), int(batch))
    forget_peak()
    before = resident_bytes()
    answer()
    say(json.dumps({"bytes": max(peak_bytes() - before, 0)}))


def prepare_recorded(file: Path, batch: int) -> Callable[[], Any]:
    """Of a file with its record, as this package loads it: weights by PyTorch, exported files by their runtime; on one thread of the CPU."""
    import torch

    from distillctl import inputs
    from distillctl.config import ModelConfig
    from distillctl.formats import by_file
    from distillctl.models.obtain import obtain
    from distillctl.models.shipping import read_record

    torch.set_num_threads(1)
    record = read_record(file, "checkpoint")
    assert record is not None, file
    contract, form = inputs.from_record(record), by_file(file)
    source = (record.architecture.source,) if record.architecture.source in ("timm", "torchvision") else ()
    for library in source if form is None else form.runs_by:
        importlib.import_module(library)

    def answer() -> None:
        model = obtain(ModelConfig(name="recorded", checkpoint=str(file)), contract, "model", seed=0).classifier.eval()
        with torch.inference_mode():
            model(contract.example(batch, torch.device("cpu")))

    return answer


def forget_peak() -> None:
    """The highest begins anew at what is resident now; where the system does not let it, imports may have been the highest."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int:
    """What is in memory now; where the system does not say, the most that was."""
    return _of_status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most that was in memory."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _of_status("VmHWM") or most * (1 if sys.platform == "darwin" else 1024)


def _of_status(name: str) -> int:
    """Of Linux' account of this process, in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
