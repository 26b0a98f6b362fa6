"""`distillctl doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from distillctl import outputs, runtime
from distillctl.config import DoctorConfig
from distillctl.metrics.latency import in_turn, one_thread, spread, synchronize
from distillctl.paths import as_path
from distillctl.report.console import Console, Table

DATA_SETS = {
    "digits": "",
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


def run(config: DoctorConfig, folder: Path | None) -> None:
    console = Console()
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in findings(folder):
        table.add_row(name, finding)
    console.table(table)


def findings(folder: Path | None) -> list[tuple[str, str]]:
    rows = [("versions", ", ".join(f"{name} {version}" for name, version in outputs.versions().items()))]
    rows += [("device", text) for text in devices()]
    rows += [("data", text) for text in data_found()]
    place = (folder or Path("outputs")).resolve()
    rows.append(("outputs", f"{place.parent}: {'can be written' if writable(place) else 'CANNOT be written; set hydra.run.dir'}"))
    existing = next(item for item in (place, *place.parents) if item.exists())
    rows.append(("disk", f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free"))
    hub = Path(torch.hub.get_dir(), "checkpoints")
    weights = len(list(hub.glob("*.pth"))) if hub.is_dir() else 0
    rows.append(("pretrained", f"{weights} files of torchvision weights in {hub}"))
    return rows


def devices() -> list[str]:
    """Each device with the precisions that work on it, tried by a training step."""
    found = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    lines = []
    for device in found:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
        chosen = runtime.precision_name(runtime.best_precision(device))
        tried = ", ".join(f"{precision} {time}" for precision, time in steps_ms(device).items())
        lines.append(f"{device}: {name}; a step of a small net on one thread: {tried}; precision=auto is {chosen}")
    if len(found) == 1:
        lines.append("no GPU is visible")
    return lines


def steps_ms(device: torch.device) -> dict[str, str]:
    """Forward and backward of a small net in each precision, in turn and on one thread; or that the device refuses."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).to(device)
    images = torch.zeros(32, 3, 32, 32, device=device)

    def step(precision: torch.dtype) -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            net(images).float().square().mean().backward()
        synchronize(device)

    passes = {name: partial(step, runtime.PRECISIONS[name]) for name in runtime.ALLOWED[device.type]}
    works = {name: run for name, run in passes.items() if does_work(run)}
    with one_thread():
        times = {name: spread(rounds).in_words("ms") for name, rounds in in_turn(works).items()}
    return {name: times.get(name, "does not work") for name in passes}


def does_work(run: Callable[[], None]) -> bool:
    try:
        run()
    except RuntimeError:
        return False
    return True


def data_found() -> list[str]:
    root = as_path(os.environ.get("DISTILLCTL_DATA", "data")).resolve()
    there = [name for name, place in DATA_SETS.items() if not place or (root / place).is_dir()]
    missing = [name for name in DATA_SETS if name not in there]
    return [f"{root}: {', '.join(there)} found" + (f"; {', '.join(missing)} would be downloaded" if missing else "")]


def writable(place: Path) -> bool:
    """Whether a run folder can be made there; nothing is left behind."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError:
        return False
    return True
