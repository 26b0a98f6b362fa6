"""What a student of the usual loop and students of ours reach at the same budget, on real images, over seeds.

    python benchmarks/usual_accuracy.py [--teacher RUN] [--images FOLDER] [--subset 5000] [--epochs 8] [--seeds 3] [--threads 1]

RUN is a finished `distillctl pretrain` on images of the same folder; without one, a teacher is trained first. For all the same data, initial weights
of each seed, batch size, loss (labels, and T² KL at T = 4, at equal weights), SGD and cosine; test accuracy of the last epoch, nothing is selected.
The usual loop is that of usual_loop.py, all in fp32. Ours computes as `distillctl distill` does, with a live teacher, and with answers that were
kept before in fp16 and are only read.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from clock import timed
from common import loader, option_of_images, real_images, run, training_of
from torch.utils.data import DataLoader
from usual_loop import Pictures, augmented, train

from distillctl import runtime
from distillctl.config import DatasetConfig, ModelConfig
from distillctl.data import sets
from distillctl.data.loader import Place, PlainLoader, Reading, TrainLoader
from distillctl.metrics.answers import answers
from distillctl.models.adapter import Classifier
from distillctl.models.obtain import Images, obtain
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store

TEMPERATURE, BATCH, LR, DECAY = 4.0, 64, 0.05, 5e-4
FP32 = runtime.Runtime(torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class Setup:
    """What all students share."""

    data: sets.DataSet
    machine: runtime.Runtime
    teacher: str
    student: str
    epochs: int

    def model(self, role: str, seed: int) -> Classifier:
        config = ModelConfig(name="recorded", checkpoint=self.teacher) if role == "teacher" else ModelConfig(name=self.student)
        images = Images(self.data.classes, self.data.image_size, self.data.mean, self.data.std)
        return obtain(config, images, role, seed).classifier

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=DECAY)

    def guide(self) -> Frozen:
        teacher, size = Frozen(self.model("teacher", 0), self.machine.precision, self.machine.device), self.data.image_size
        teacher.fold(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.machine.device))
        return teacher

    def batches(self, seed: int) -> TrainLoader:
        return loader(self.data.train, len(self.data.classes), self.data.image_size, BATCH, self.machine.device, seed=seed)


def usual(setup: Setup, seed: int) -> Classifier:
    torch.manual_seed(seed)
    student, teacher = setup.model("student", seed), setup.model("teacher", 0)
    student.mean, student.std = teacher.mean, teacher.std  # both see the same normalised images
    transform = augmented(setup.data.image_size, tuple(teacher.mean.flatten().tolist()), tuple(teacher.std.flatten().tolist()))
    pictures = Pictures(setup.data.train, transform)
    batches = DataLoader(pictures, BATCH, shuffle=True, drop_last=True)
    optimizer = setup.optimizer(student.net)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setup.epochs * len(batches))
    train(student.net, teacher.net, batches, optimizer, setup.epochs, TEMPERATURE, scheduler)
    return student


def ours(setup: Setup, seed: int, guide: Frozen) -> Classifier:
    student, batches = setup.model("student", seed), setup.batches(seed)
    training = training_of(student, guide, setup.machine, setup.optimizer, TEMPERATURE)
    run(training, batches, setup.epochs, setup.machine, go_on=True, seed=seed)
    return student


def live(setup: Setup, seed: int) -> Classifier:
    return ours(setup, seed, setup.guide())


def kept(setup: Setup, seed: int) -> Classifier:
    """Another pass over the same views asked and kept, as an earlier job of a sweep does; this one reads."""
    batches, layout = setup.batches(seed), Layout(1, len(setup.data.classes))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), "accuracy", layout, len(batches.split), print)
        filling = Cached(setup.guide(), layout, store, batches.split.index)
        for epoch in range(setup.epochs):
            for batch in batches(epoch):
                filling(batch)
        return ours(setup, seed, Cached(setup.guide(), layout, store, batches.split.index, strict=True))


KINDS: dict[str, Callable[[Setup, int], Classifier]] = {"usual loop": usual, "ours, live": live, "ours, kept": kept}


def keep(students: list[Classifier], kind: Callable[[Setup, int], Classifier], setup: Setup, seed: int) -> None:
    students.append(kind(setup, seed))


def accuracy(model: Classifier, data: sets.DataSet, machine: runtime.Runtime) -> float:
    """Top-1 % on the test split."""
    logits, targets = answers(model, PlainLoader(data.test, 256, Place(machine.device), Reading(data.image_size)), machine)
    return 100 * float((logits.argmax(1) == targets).float().mean())


def trained(root: Path, options: argparse.Namespace, folder: Path) -> str:
    """A teacher by the command line."""
    given = {
        "teacher": "resnet20",
        "pretrain.epochs": 2 * options.epochs,
        "dataset": "image_folder",
        "dataset.root": root,
        "dataset.subset": options.subset,
        "dataset.in_memory": "always",
        "trainer.batch_size": BATCH,
        "trainer.threads": options.threads,
        "hydra.run.dir": folder,
    }
    subprocess.run([sys.executable, "-m", "distillctl", "pretrain", *(f"{key}={value}" for key, value in given.items())], check=True)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--subset", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    option_of_images(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = real_images(options.images, parser, Path(folder, "images"))
        compare(root, options.teacher or trained(root, options, Path(folder, "teacher")), options)


def compare(root: Path, teacher: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    machine = runtime.Runtime(FP32.device, runtime.best_precision(FP32.device))
    data = sets.load(DatasetConfig(name="image_folder", root=str(root), subset=options.subset, in_memory="always"))
    setup = Setup(data, machine, teacher, options.student, options.epochs)
    print(
        f"{len(data.train):,} training and {len(data.test):,} test images, {options.epochs} epochs, {runtime.precision_name(machine.precision)}"
    )
    print(f"teacher {accuracy(setup.guide().model, data, machine):.2f}", flush=True)
    found: dict[str, list[float]] = {name: [] for name in KINDS}
    for seed in range(options.seeds):
        for name, kind in KINDS.items():
            students: list[Classifier] = []
            spent = timed(partial(keep, students, kind, setup, seed), machine.device)
            found[name].append(accuracy(students[0], data, FP32 if kind is usual else machine))
            print(f"seed {seed}  {name:<12} {found[name][-1]:.2f}   {spent.cpu:.0f} s of CPU time", flush=True)
    for name, values in found.items():
        deviation = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{name:<12} {statistics.fmean(values):.2f}{deviation}")


if __name__ == "__main__":
    main()
