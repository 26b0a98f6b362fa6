"""What kept answers of a teacher save: a student's epoch by labels, by a live teacher, by kept answers, and while they are filled.

    python benchmarks/cached_teacher.py [--pairs 32 224 224-files] [--rounds 8] [--threads 1] [--device auto] [--precision auto] [--images FOLDER]

100 classes, fp16 records; all kinds run the same `fit` on the same images, and take their turn in every round. Medians of the rounds' ratios.
"A step that reads" is timed by itself too, as its share is below what the rounds can tell. The whole run is of 240 epochs with a bank of 8 views: 8 epochs that fill and 232 that read, beside 240 by labels.
32: resnet32x4 -> resnet8x4, noise of 32 px in memory. 224: resnet152 -> mobilenet_v2, noise of 256 px in memory, cut to 224. 224-files: the same
from JPEG files, which are real images of 32 px made larger.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from clock import Time, listed, ratios, spread, timed, turns
from common import (
    STORED,
    Pair,
    chosen,
    classifier,
    enlarged,
    epoch_of,
    live_teacher,
    loader,
    machine_of,
    noise,
    option_of_images,
    options_of_machine,
    real_images,
)

from distillctl import runtime
from distillctl.data.split import Split
from distillctl.losses.logits import soft_targets
from distillctl.teachers.cached import Cached
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store
from distillctl.types import Batch

CLASSES, EPOCHS, VIEWS = 100, 240, 8
LABELS, LIVE, KEPT, FILL, RUN = "labels alone", "live teacher", "kept answers", "kept, to be filled", "whole run"


@dataclass(frozen=True)
class Epoch(Pair):
    """What is timed: an epoch of so many batches."""

    batches: int
    files: bool = False

    @property
    def images(self) -> int:
        return self.batch * self.batches


PAIRS = {
    "32": Epoch("resnet32x4", "resnet8x4", 32, 64, 2),
    "224": Epoch("resnet152", "mobilenet_v2", 224, 16, 2),
    "224-files": Epoch("resnet152", "mobilenet_v2", 224, 16, 2, files=True),
}


def measure(pair: Epoch, split: Split, rounds: int, machine: runtime.Runtime, folder: Path) -> tuple[dict[str, list[Time]], list[Time]]:
    """Of each kind of epoch, and of what a step that reads does more than one by labels. The first of each is not counted; it fills what `KEPT` reads. `FILL` has a new view each epoch."""
    again, new = (loader(split, CLASSES, pair.size, pair.batch, machine.device, views) for views in (1, None))
    live = live_teacher(pair.teacher, CLASSES, pair.size, machine)

    def keeping(name: str) -> Cached:
        layout = Layout(1, CLASSES)
        (folder / name).mkdir()
        return Cached(live, layout, Store(folder / name, name, layout, len(split), print), split.index)

    kept, filled = keeping("kept"), keeping("filled")
    kinds: dict[str, Callable[[], None]] = {
        name: epoch_of(classifier(pair.student, CLASSES, pair.size), guide, batches, machine)
        for name, guide, batches in ((LABELS, None, again), (LIVE, live, again), (KEPT, kept, again), (FILL, filled, new))
    }
    times: dict[str, list[Time]] = {name: [] for name in kinds}
    for epoch in kinds.values():
        epoch()
    for number in range(rounds):
        for name in turns([*kinds], number):
            times[name].append(timed(kinds[name], machine.device))
    assert kept.asked == pair.images, "the teacher was asked after the first pass"
    assert filled.read == 0, "answers to new views were there"
    return times, [timed(partial(read_and_compare, kept, batch), machine.device) for _ in range(rounds) for batch in again(0)]


def read_and_compare(kept: Cached, batch: Batch) -> None:
    """The look-up, and the loss forward and backward."""
    answer = kept(batch)
    student = torch.zeros_like(answer.logits, requires_grad=True)
    soft_targets(student, answer.logits, 4.0).backward()


def tell(pair: Epoch, times: dict[str, list[Time]], more: list[Time]) -> None:
    print(f"{'':<20}{'img/s':>8}   over labels alone (least to most): by the wall, by CPU time")
    times = times | {RUN: [fill * VIEWS + kept * (EPOCHS - VIEWS) for fill, kept in zip(times[FILL], times[KEPT], strict=True)]}
    for name, values in times.items():
        scale = EPOCHS if name == RUN else 1
        wall, cpu = ratios(values, [plain * scale for plain in times[LABELS]])
        rate = scale * pair.images / statistics.median(value.wall for value in values)
        print(f"{name:<20}{rate:>8.1f}   {spread(wall)}   {spread(cpu)}")
    step = statistics.median(value.cpu for value in times[LABELS]) / pair.batches
    added = statistics.median(value.cpu for value in more)
    print(f"a step that reads: {1000 * added:.2f} ms of CPU time more, {added / step:.2%} of a step by labels (n = {len(more)})")
    for name, values in times.items():
        if name != RUN:
            print(f"  {name}, s: wall {listed([value.wall for value in values])}; CPU {listed([value.cpu for value in values])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=[*PAIRS], choices=PAIRS)
    parser.add_argument("--rounds", type=int, default=8)
    options_of_machine(parser)
    option_of_images(parser)
    options = parser.parse_args()
    machine = machine_of(options)
    for name in options.pairs:
        pair = PAIRS[name]
        with tempfile.TemporaryDirectory() as folder:
            if pair.files:
                root = real_images(options.images, parser, Path(folder, "images"))
                split = enlarged(chosen(root / "train", pair.images), Path(folder, "large"))
            else:
                split = noise(pair.images, pair.size if pair.size < STORED // 2 else STORED, CLASSES)
            print(
                f"{pair.teacher} -> {pair.student}, batch {pair.batch} x {pair.batches}, {pair.size} px {'from JPEG files' if pair.files else 'from memory'}, "
                f"{machine.device}, {runtime.precision_name(machine.precision)}, {options.threads} threads, n = {options.rounds}"
            )
            tell(pair, *measure(pair, split, options.rounds, machine, Path(folder)))


if __name__ == "__main__":
    main()
