"""What a sweep over six temperatures costs: the usual loop, ours with a live teacher, ours with answers that the jobs share.

    python benchmarks/sweep.py [--pairs 32 224] [--epochs 2] [--count N] [--batch N] [--rounds 2] [--images FOLDER] [--threads 1]

Each job trains a new student for some epochs, with a new view of each image every epoch, by labels and the teacher's answers. The jobs
of the three kinds take turns. The usual loop is that of usual_loop.py: fp32, PIL images one by one. Ours is `fit` as `distillctl distill` runs it: bf16
where the machine computes it, channels_last, whole batches augmented at once; from files, decoded one by one too. No kind has
workers that load, so that CPU time counts everything. Where answers are shared, the first job asks and keeps (its time is in the sum) and five read.
32: resnet32x4 -> resnet8x4, images of 32 px in memory. 224: resnet152 -> mobilenet_v2, JPEG files of 256 px. Real images, those of 256 px
made larger from 32; random weights of the teacher, which cost what learned ones do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clock import Time, ratios, spread, timed
from common import (
    MEAN,
    STD,
    Pair,
    chosen,
    classifier,
    enlarged,
    epoch_of,
    in_memory,
    live_teacher,
    loader,
    machine_of,
    optimizer_for,
    option_of_images,
    options_of_machine,
    real_images,
    settled,
)
from torch.utils.data import DataLoader
from usual_loop import Pictures, augmented, train

from distillctl import runtime
from distillctl.data.split import Split
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store

CLASSES, TEMPERATURES = 10, (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
USUAL, LIVE, SHARED = "usual loop", "ours, live", "ours, shared"

Job = Callable[[], None]


@dataclass(frozen=True)
class Jobs(Pair):
    """What each job sees."""

    count: int  # images
    epochs: int


PAIRS = {"32": Jobs("resnet32x4", "resnet8x4", 32, 64, 256, 2), "224": Jobs("resnet152", "mobilenet_v2", 224, 16, 32, 2)}


class Sweep:
    """Jobs of the three kinds on one split; `folder` is where answers are kept."""

    def __init__(self, pair: Jobs, split: Split, machine: runtime.Runtime, folder: Path):
        self.pair, self.split, self.machine, self.folder = pair, split, machine, folder
        folder.mkdir()
        self.usual_teacher = settled(classifier(pair.teacher, CLASSES, pair.size), pair.size).net.to(machine.device)
        self.live = live_teacher(pair.teacher, CLASSES, pair.size, machine)

    def usual(self, temperature: float) -> Job:
        student = classifier(self.pair.student, CLASSES, self.pair.size).net.to(self.machine.device)
        pictures = Pictures(self.split, augmented(self.pair.size, MEAN, STD))
        batches = DataLoader(pictures, self.pair.batch, shuffle=True, drop_last=True)
        return lambda: train(student, self.usual_teacher, batches, optimizer_for(student), self.pair.epochs, temperature)

    def ours(self, temperature: float, guide: Frozen) -> Job:
        batches = loader(self.split, CLASSES, self.pair.size, self.pair.batch, self.machine.device)
        epoch = epoch_of(classifier(self.pair.student, CLASSES, self.pair.size), guide, batches, self.machine, temperature)

        def job() -> None:
            for _ in range(self.pair.epochs):
                epoch()

        return job

    def keeping(self) -> Cached:
        """A teacher as each job opens it, with nothing in this process's memory."""
        layout = Layout(1, CLASSES)
        return Cached(self.live, layout, Store(self.folder, "sweep", layout, len(self.split), print), self.split.index)

    def run(self) -> dict[str, list[Time]]:
        """Each job's time, by kind."""
        times: dict[str, list[Time]] = {USUAL: [], LIVE: [], SHARED: []}
        seen = self.pair.epochs * (self.pair.count // self.pair.batch) * self.pair.batch
        for number, temperature in enumerate(TEMPERATURES):
            kept = self.keeping()
            jobs = {USUAL: self.usual(temperature), LIVE: self.ours(temperature, self.live), SHARED: self.ours(temperature, kept)}
            for name in sorted(jobs, reverse=bool(number % 2)):
                times[name].append(timed(jobs[name], self.machine.device))
            expected = (0, seen) if number else (seen, 0)
            assert (kept.asked, kept.read) == expected, f"job {number + 1} asked for {kept.asked} answers and read {kept.read}"
        return times


def warm_up(sweep: Sweep, folder: Path) -> None:
    """One batch of each kind, in a store of its own: the first steps of a process are slower."""
    small = replace(sweep.pair, count=sweep.pair.batch, epochs=1)
    one = Sweep(small, sweep.split.take(range(small.count)), sweep.machine, folder)
    for job in (one.usual(1.0), one.ours(1.0, one.live), one.ours(1.0, one.keeping()), one.ours(2.0, one.keeping())):
        job()


def tell(times: dict[str, list[Time]]) -> None:
    for name, own in times.items():
        walls, cpus = [value.wall for value in own], [value.cpu for value in own]
        print(
            f"  {name:<13} wall {' '.join(f'{v:6.2f}' for v in walls)} sum {sum(walls):7.2f} s; CPU {' '.join(f'{v:6.2f}' for v in cpus)} sum {sum(cpus):7.2f} s"
        )
    for name, other in ((USUAL, SHARED), (LIVE, SHARED), (USUAL, LIVE)):
        mine, theirs = times[name], times[other]
        (wall,), (cpu,) = ratios([summed(mine)], [summed(theirs)])
        (first_wall, *_), (first_cpu, *_) = first_and_later = ratios(mine, theirs)
        later_wall, later_cpu = (values[1:] for values in first_and_later)
        print(
            f"{name} / {other}, by wall and CPU time: sum {wall:.2f}, {cpu:.2f}; first job {first_wall:.2f}, {first_cpu:.2f}; "
            f"later jobs {spread(later_wall)}, {spread(later_cpu)}"
        )


def summed(times: list[Time]) -> Time:
    return sum(times, start=Time(0.0, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=[*PAIRS], choices=PAIRS)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--count", type=int, help="images of an epoch")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=2)
    options_of_machine(parser)
    option_of_images(parser)
    options = parser.parse_args()
    machine = machine_of(options)
    for name in options.pairs:
        given = {key: value for key in ("epochs", "count", "batch") if (value := getattr(options, key)) is not None}
        pair = replace(PAIRS[name], **given)
        with tempfile.TemporaryDirectory() as folder:
            files = chosen(real_images(options.images, parser, Path(folder, "images")) / "train", pair.count)
            split = in_memory(files) if pair.size < 64 else enlarged(files, Path(folder, "large"))
            print(
                f"{pair.teacher} -> {pair.student}, {len(TEMPERATURES)} jobs x {pair.epochs} epochs x {pair.count} images, batch {pair.batch}, {pair.size} px, "
                f"{machine.device}, {runtime.precision_name(machine.precision)}, {options.threads} threads",
                flush=True,
            )
            for number in range(options.rounds):
                sweep = Sweep(pair, split, machine, Path(folder, f"sweep-{number}"))
                if number == 0:
                    warm_up(sweep, Path(folder, "warm-up"))
                tell(sweep.run())


if __name__ == "__main__":
    main()
