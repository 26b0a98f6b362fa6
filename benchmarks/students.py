"""What the benchmarks of accuracy share: students of one teacher on real images, over seeds, each at its last epoch."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from clock import timed
from common import machine_of, option_of_images, options_of_machine, real_images
from torch import nn

from distillctl import runtime
from distillctl.config import ImageSetConfig, ModelConfig
from distillctl.data.image import sets
from distillctl.data.image.loader import PlainImages, ReadOptions
from distillctl.data.loader import Place
from distillctl.inputs.image import Images
from distillctl.metrics.answers import answers
from distillctl.metrics.quality import top_k_accuracy
from distillctl.models.adapter import Classifier
from distillctl.models.obtain import obtain
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store

TEMPERATURE, BATCH, LR, DECAY = 4.0, 64, 0.05, 5e-4


@dataclass(frozen=True)
class Setup:
    """What all students share."""

    data: sets.DataSet
    machine: runtime.Runtime
    teacher: str
    student: str
    epochs: int
    seeds: int

    def model(self, role: str, seed: int) -> Classifier:
        config = ModelConfig(name="recorded", checkpoint=self.teacher) if role == "teacher" else ModelConfig(name=self.student)
        images = Images(self.data.classes, self.data.image_size, self.data.mean, self.data.std)
        return obtain(config, images, role, seed).classifier

    def guide(self) -> Frozen:
        """The live teacher, as a stage makes it."""
        teacher, size = Frozen(self.model("teacher", 0), self.machine.precision, self.machine.device), self.data.image_size
        teacher.fold(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.machine.device))
        return teacher

    def cached(self, folder: Path, name: str, strict: bool = False) -> Cached:
        """Its answers in fp16, kept under a name."""
        place, layout = folder / name, Layout(1, len(self.data.classes))
        place.mkdir(exist_ok=True)
        store = Store(place, name, layout, len(self.data.train), print)
        return Cached(self.guide(), layout, store, self.data.train.index, strict)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=DECAY)

    def accuracy(self, model: nn.Module, machine: runtime.Runtime | None = None) -> float:
        """Top-1 % on the test split."""
        machine = machine or self.machine
        batches = PlainImages(self.data.test, 256, Place(machine.device), ReadOptions(self.data.image_size))
        return 100 * top_k_accuracy(*answers(model, batches, machine), 1)


@contextmanager
def setup(parser: argparse.ArgumentParser, epochs: int) -> Iterator[tuple[Setup, argparse.Namespace]]:
    """As the command line says; a teacher is trained first where none is given."""
    options_of_machine(parser)
    option_of_images(parser)
    parser.add_argument("--teacher", help="a finished `distillctl pretrain` on images of the same folder; else one is trained first")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--subset", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    machine = machine_of(options)
    with tempfile.TemporaryDirectory() as folder:
        root = real_images(options.images, parser, Path(folder, "images"))
        data = sets.load(ImageSetConfig(name="image_folder", root=str(root), subset=options.subset, in_memory="always"))
        teacher = options.teacher or trained(root, options, Path(folder, "teacher"))
        made = Setup(data, machine, teacher, options.student, options.epochs, options.seeds)
        print(
            f"{len(data.train):,} training and {len(data.test):,} test images, {made.epochs} epochs, {runtime.precision_name(machine.precision)}"
        )
        print(f"teacher {made.accuracy(made.guide().model):.2f}", flush=True)
        yield made, options


def trained(root: Path, options: argparse.Namespace, folder: Path) -> str:
    """A teacher by the command line."""
    given = {
        "teacher": "resnet20",
        "pretrain.epochs": 20,
        "dataset": "image_folder",
        "dataset.root": root,
        "dataset.subset": 2 * options.subset,
        "dataset.in_memory": "always",
        "trainer.batch_size": BATCH,
        "trainer.threads": options.threads,
        "hydra.run.dir": folder,
    }
    subprocess.run([sys.executable, "-m", "distillctl", "pretrain", *(f"{key}={value}" for key, value in given.items())], check=True)
    return str(folder)


def compare(setup: Setup, kinds: Mapping[str, Callable[[Setup, int], float]]) -> None:
    """Print the accuracy of each kind of student for each seed, and then mean and deviation."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for seed in range(setup.seeds):
        for name, kind in kinds.items():
            spent = timed(lambda name=name, kind=kind, seed=seed: found[name].append(kind(setup, seed)), setup.machine.device)  # type: ignore[misc]
            print(f"seed {seed}  {name:<42} {found[name][-1]:.2f}   {spent.cpu:.0f} s of CPU time", flush=True)
    for name, values in found.items():
        deviation = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{name:<42} {statistics.fmean(values):.2f}{deviation}   ({', '.join(f'{value:.2f}' for value in values)})")
