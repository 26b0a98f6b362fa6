"""How a cache of answers grows: bytes, seconds and memory over images, classes and views; each case in a process of its own.

    python benchmarks/cache_growth.py [--folder FOLDER] [--batch 128]

Random logits are encoded and written in shuffled batches, read and decoded in another order, then each view is inspected as before training.
Layouts are the defaults: fp16, and of 1000 classes the 16 largest. Times are CPU time, as other work on the same cores disturbs that least.
"private" is the most that the process held of memory of its own over what it held before; "mapped" is what it had of files at the end, which the
system takes back as it needs room. Fails where a byte is more or less than views x images x (4 W + 8).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from clock import timed

from distillctl.draws import permutation
from distillctl.teachers.records import Words, layout_for
from distillctl.teachers.store import Store

CPU = torch.device("cpu")
WARM = 512  # images, before the process is looked at
CASES = [(images, classes, 1) for classes in (10, 100, 1000) for images in (1_000, 10_000, 50_000)] + [
    (10_000, 100, 4),
    (10_000, 100, 16),
    (200_000, 100, 1),
]


def held(what: str) -> int:
    """Bytes of this process: RssAnon, its own, or RssFile, pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])


class Peak(threading.Thread):
    """The most of the process's own memory, looked at a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done, self.bytes = threading.Event(), 0

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.bytes = max(self.bytes, held("RssAnon"))


def marks(rows: np.ndarray) -> Words:
    """In place of the hashes of images."""
    return (rows * 2654435761 % 2**32).astype(np.uint32)


def write(store: Store, view: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(view)
    answers = torch.randn(batch, store.layout.teachers, store.layout.classes, generator=generator)
    for rows in shuffled(store.rows, batch, "write", view):
        store.write(view, rows, marks(rows), store.layout.encode(answers[: len(rows)]))


def read(store: Store, view: int, batch: int) -> None:
    for rows in shuffled(store.rows, batch, "read", view):
        payloads, there = store.read(view, rows, marks(rows))
        assert there.all(), f"{(~there).sum()} answers are not there"
        store.layout.decode(payloads)


def inspect(store: Store, view: int, batch: int) -> None:
    whole, damaged = store.inspected(view)
    assert whole.all(), f"{(~whole).sum()} records are not whole"
    assert not damaged, f"{damaged} records are damaged"


def shuffled(rows: int, batch: int, stream: str, view: int) -> Iterator[np.ndarray]:
    return (piece.numpy() for piece in permutation(rows, 0, stream, view).split(batch))


PASSES = {"write": write, "read": read, "inspect": inspect}


def grown(folder: Path, images: int, classes: int, views: int, batch: int) -> dict[str, float]:
    """One case: bytes, and the CPU seconds of each pass over all views."""
    layout = layout_for(1, classes, "fp16", None)
    warm = Store(folder, "warm", layout, WARM, print)
    for work in PASSES.values():
        work(warm, views, batch)
    warm.file(views).unlink()
    del warm
    store, peak = Store(folder, "growth", layout, images, print), Peak()
    own, of_files = held("RssAnon"), held("RssFile")
    peak.start()
    seconds = {name: timed(lambda work=work: [work(store, view, batch) for view in range(views)], CPU).cpu for name, work in PASSES.items()}
    peak.done.set()
    peak.join()
    size = sum(store.file(view).stat().st_size for view in range(views))
    assert size == views * images * (4 * layout.words + 8), f"{size} bytes for {views} views of {images} images, {layout.words} words each"
    return seconds | {"bytes": size, "private": max(peak.bytes - own, 0), "mapped": held("RssFile") - of_files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk that is to be measured; a temporary one by default")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--case", type=int, nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.case:
            print(json.dumps(grown(Path(folder), *options.case, options.batch)))
            return
    print(
        f"{'images':>8}{'classes':>8}{'views':>6}{'MB':>8}{'bytes each':>11}"
        + "".join(f"{what:>20}" for what in PASSES)
        + f"{'private, MB':>13}{'mapped, MB':>12}"
    )
    for case in CASES:
        command = [sys.executable, __file__, "--batch", str(options.batch), "--case", *map(str, case)]
        command += ["--folder", str(options.folder)] if options.folder else []
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        images, classes, views = case
        answers = images * views
        row = f"{images:>8,}{classes:>8}{views:>6}{found['bytes'] / 1e6:>8.2f}{found['bytes'] / answers:>11.0f}"
        row += "".join(f"{f'{found[what]:.3f} s {1e6 * found[what] / answers:.2f} us':>20}" for what in PASSES)
        print(row + f"{found['private'] / 1e6:>13.1f}{found['mapped'] / 1e6:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
