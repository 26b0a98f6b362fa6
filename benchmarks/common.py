"""What the benchmarks share: nets, images, and a training by `fit`."""

from __future__ import annotations

import argparse
import itertools
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from distillctl import runtime
from distillctl.config import AugmentConfig, ModelConfig
from distillctl.data.image import files as images
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, ReadOptions
from distillctl.data.loader import Place
from distillctl.data.split import Split, whole
from distillctl.loop import FitSettings, fit
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.methods.method import Method
from distillctl.models.adapter import Classifier
from distillctl.models.net import build_net
from distillctl.models.taps import tap
from distillctl.models.trace import pixels
from distillctl.schedules import Cosine
from distillctl.teachers.frozen import Frozen
from distillctl.training import Training

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STORED = 256  # pixels an edge of the files that views of 224 px are cut from
ARCHIVE = "cifar10-jpg.zip"
LARGEST_FILE = 10**8  # pixels


@dataclass(frozen=True)
class Pair:
    """Nets, and batches of images of `size` pixels that they see."""

    teacher: str
    student: str
    size: int
    batch: int


def classifier(name: str, classes: int, size: int, taps: Sequence[str] = ()) -> Classifier:
    torch.manual_seed(0)
    net = build_net(ModelConfig(name=name), classes, size).module
    return Classifier(net, MEAN, STD, taps=tap(net, taps, pixels(size), name) if taps else None)


def settled(model: Classifier, size: int) -> Classifier:
    """With statistics of batch norms that fit its random weights: without, the answers of deep nets overflow."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(noise(8, size, 1).inputs)
    return model.eval()


def live_teacher(name: str, classes: int, size: int, machine: runtime.Runtime) -> Frozen:
    """As a stage makes it."""
    teacher = Frozen(settled(classifier(name, classes, size), size), machine.precision, machine.device)
    teacher.fold(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=machine.device))
    return teacher


def optimizer_for(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def noise(count: int, size: int, classes: int) -> Split:
    """Random images in memory."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return whole(pixels, torch.randint(0, classes, (count,), generator=generator))


def loader(split: Split, classes: int, size: int, batch: int, device: torch.device, views: int | None = None, seed: int = 0) -> ImageLoader:
    """Moved and flipped at 32 px, resized crops at 224."""
    augment = Augment(AugmentConfig(crop="pad" if size < STORED // 2 else "resized"), size, classes, seed)
    return ImageLoader(split, augment, batch, seed, Place(device), ReadOptions(size), views)


def training_of(
    student: Classifier,
    guide: Frozen | None,
    machine: runtime.Runtime,
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer] = optimizer_for,
    temperature: float = 4.0,
) -> Training:
    """By labels, and with a teacher by its answers at the same weight."""
    model = student.to(machine.device).to(memory_format=torch.channels_last)
    terms: dict[str, nn.Module] = {"ce": CrossEntropy()} | ({"kd": SoftTargets(temperature)} if guide else {})
    return training_by(Distill(model, WeightedSum(terms, dict.fromkeys(terms, 1.0)), guide), machine, optimizer_of)


def training_by(
    method: Method, machine: runtime.Runtime, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer] = optimizer_for
) -> Training:
    """Of a method whose student is on the device."""
    method.train()
    optimizer = optimizer_of(method)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return Training(method, {"student": optimizer}, machine.scaler())


def run(training: Training, batches: ImageLoader, epochs: int, machine: runtime.Runtime, go_on: bool, seed: int = 0) -> None:
    """`fit` with a cosine over `epochs`, saving and telling nothing; one epoch where it is not to go on."""
    fit(
        training,
        batches,
        FitSettings(epochs, batches.batches_per_epoch, batches.batch_size, seed, Cosine()),
        machine,
        after_step=lambda report: None,
        after_epoch=lambda *_: go_on,
        save=lambda training: None,
        asked_to_stop=lambda: False,
    )


def epoch_of(
    student: Classifier, guide: Frozen | None, batches: ImageLoader, machine: runtime.Runtime, temperature: float = 4.0
) -> Callable[[], None]:
    """One epoch of a long run, and with each call the next."""
    training = training_of(student, guide, machine, temperature=temperature)
    return lambda: run(training, batches, 10**6, machine, go_on=False)


def epoch_of_method(method: Method, batches: ImageLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """The same of any method."""
    training = training_by(method, machine)
    return lambda: run(training, batches, 10**6, machine, go_on=False)


def machine_of(options: argparse.Namespace) -> runtime.Runtime:
    torch.set_num_threads(options.threads)
    device = runtime.choose_device(options.device)
    return runtime.Runtime(device, runtime.choose_precision(options.precision, device))


def options_of_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")


def option_of_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help=f"a folder with train/CLASS/* and test/CLASS/*; else {ARCHIVE} of the test data")


def real_images(given: Path | None, parser: argparse.ArgumentParser, folder: Path) -> Path:
    """A folder with train/CLASS/* and test/CLASS/*: the given one, or the archive unpacked into `folder`."""
    if given is not None:
        if not (given / "train").is_dir():
            parser.error(f"--images {given}: has no train/CLASS/*")
        return given
    archive = Path(os.environ.get("DISTILLCTL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / ARCHIVE
    if not archive.exists():
        parser.error(f"no real images: {archive} is not there; name a folder with --images, or that of the archive in DISTILLCTL_TEST_DATA")
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder


def chosen(part: Path, count: int) -> Split:
    """`count` files below CLASS/*, of each class in turn."""
    classes = sorted(folder for folder in part.iterdir() if folder.is_dir())
    columns = [[(file, label) for file in sorted(folder.iterdir())] for label, folder in enumerate(classes)]
    rows = itertools.islice((item for row in zip(*columns, strict=False) for item in row), count)
    files, labels = zip(*rows, strict=True)
    assert len(files) == count, f"{part} has {len(files)} of {count} images"
    return whole(list(files), torch.tensor(labels))


def in_memory(split: Split) -> Split:
    """The same images, decoded."""
    assert isinstance(split.inputs, list)
    return Split(torch.stack([images.decode(file, LARGEST_FILE) for file in split.inputs]), split.targets, split.index)


def enlarged(split: Split, folder: Path) -> Split:
    """The same images as JPEG files of the size that those of 224 px are cut from."""
    assert isinstance(split.inputs, list)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:05d}.jpg" for number in range(len(split))]
    for source, file in zip(split.inputs, files, strict=True):
        Image.open(source).convert("RGB").resize((STORED, STORED), Image.Resampling.BICUBIC).save(file, quality=90)
    return Split(files, split.targets, split.index)
