"""What banks of views cost in accuracy, and what wrong caches cost: one student by each, on real images, over seeds.

    python benchmarks/cache_accuracy.py --teacher RUN [--images FOLDER] [--subset 5000] [--epochs 24] [--seeds 3] [--kinds live,kept]

RUN is a finished `distillctl pretrain` on such images. Test accuracy of the last epoch: nothing is selected.
The wrong caches are what other tools do: nothing here offers them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine_of, option_of_images, options_of_machine, real_images, run
from torch import Tensor, nn

from distillctl import runtime
from distillctl.config import AugmentConfig, DatasetConfig, ModelConfig
from distillctl.data import mixing, sets
from distillctl.data.augment import Augment
from distillctl.data.loader import Place, PlainLoader, Reading, TrainLoader
from distillctl.loop import Training
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.metrics.answers import answers
from distillctl.metrics.quality import top_k_accuracy
from distillctl.models.obtain import Images, obtain
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store
from distillctl.types import Batch, Output

TEMPERATURE, LABELS_SHARE, BATCH, LR = 4.0, 0.1, 64, 0.05
MIXUP = 1.0


@dataclass(frozen=True)
class Setup:
    """What all students share."""

    data: sets.DataSet
    images: Images
    machine: runtime.Runtime
    teacher: Frozen
    student: str
    epochs: int
    folder: Path  # of records


def kept(setup: Setup, batches: TrainLoader) -> Frozen:
    """As `distillctl` keeps answers, in fp16."""
    layout = Layout(1, len(setup.data.classes))
    name = f"{batches.augment.seed} {batches.augment.mixes}"
    folder = setup.folder / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    return Cached(setup.teacher, layout, Store(folder, name, layout, len(batches.split), print), batches.split.index)


class OneAnswer(Frozen):
    """Wrong: the teacher's answer to each image as it is, whatever view of it the student sees; of mixed images, mixed as they are."""

    def __init__(self, setup: Setup, batches: TrainLoader):
        self.batches = batches
        plain = PlainLoader(batches.split, 256, Place(setup.machine.device), batches.reading)
        logits = torch.cat([setup.teacher(batch).logits for batch in plain])
        self.logits = logits.new_zeros(int(batches.split.index.max()) + 1, logits.shape[1])
        self.logits[batches.split.index] = logits

    def __call__(self, batch: Batch) -> Output:
        own = self.logits[batch.index]
        if not self.batches.augment.mixes:
            return Output(own, {})
        partner, share = mixture_of(self.batches, batch)
        return Output(blend(own, self.logits[self.batches.index[partner]], share), {})


class MixedAnswers(Frozen):
    """Wrong: the answers to the two views that were mixed, mixed like them."""

    def __init__(self, setup: Setup, batches: TrainLoader):
        self.batches, self.teacher = batches, setup.teacher
        self.row_of = torch.full((int(batches.split.index.max()) + 1,), -1)
        self.row_of[batches.split.index] = torch.arange(len(batches.split))

    def __call__(self, batch: Batch) -> Output:
        partner, share = mixture_of(self.batches, batch)
        own, other = self.answer(self.row_of[batch.index], batch.view), self.answer(partner, batch.view)
        return Output(blend(own, other, share), {})

    def answer(self, rows: Tensor, view: int) -> Tensor:
        memory, index = self.batches.memory, self.batches.index
        assert memory is not None
        inputs = self.batches.augment.views(memory[rows], index[rows], view)
        return self.teacher(Batch(inputs, self.batches.targets[rows], index[rows], view)).logits


def mixture_of(batches: TrainLoader, batch: Batch) -> tuple[Tensor, Tensor]:
    """Rows of a batch's partners in the split, and the share of each own image in its mixture."""
    augment = batches.augment
    row_of = torch.full((int(batches.split.index.max()) + 1,), -1)
    row_of[batches.split.index] = torch.arange(len(batches.split))
    partner = augment.partners(len(batches.split), batch.view)[row_of[batch.index]]
    nothing = torch.zeros(len(batch.index), 1, 1, 1, dtype=torch.uint8)
    _, share = mixing.blended(nothing, nothing, augment.config.mixup, augment.seed, batch.view, batch.index)
    return partner, share


def blend(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    part = share.float()[:, None]
    return part * own + (1 - part) * other


@dataclass(frozen=True)
class Kind:
    """One row of the table. views: the size of the bank, None for a new view each epoch."""

    name: str
    mixup: float = 0.0
    views: int | None = None
    teacher: Callable[[Setup, TrainLoader], Frozen] | None = None


def live(setup: Setup, batches: TrainLoader) -> Frozen:
    return setup.teacher


KINDS = (
    Kind("no teacher"),
    Kind("live", teacher=live),
    Kind("kept, a new view each epoch", teacher=kept),
    *(Kind(f"kept, bank of {views}", views=views, teacher=kept) for views in (16, 8, 4, 1)),
    Kind("wrong: one answer an image", teacher=OneAnswer),
    Kind("mixup: no teacher", mixup=MIXUP),
    Kind("mixup: live", mixup=MIXUP, teacher=live),
    Kind("mixup: kept, bank of 8", mixup=MIXUP, views=8, teacher=kept),
    Kind("mixup: wrong: answers mixed", mixup=MIXUP, teacher=MixedAnswers),
    Kind("mixup: wrong: one answer an image, mixed", mixup=MIXUP, teacher=OneAnswer),
)


def accuracy(setup: Setup, kind: Kind, seed: int) -> float:
    """Top-1 % on the test split of a student after its last epoch."""
    data, machine = setup.data, setup.machine
    augment = Augment(AugmentConfig(mixup=kind.mixup), data.image_size, len(data.classes), seed)
    batches = TrainLoader(data.train, augment, BATCH, seed, Place(machine.device), Reading(data.image_size), kind.views)
    teacher = kind.teacher(setup, batches) if kind.teacher else None
    model = obtain(ModelConfig(name=setup.student), setup.images, "student", seed).classifier.to(machine.device)
    model = model.to(memory_format=torch.channels_last)
    terms: dict[str, nn.Module] = {"ce": CrossEntropy()} | ({"kd": SoftTargets(TEMPERATURE)} if teacher else {})
    weights = {"ce": LABELS_SHARE, "kd": 1 - LABELS_SHARE} if teacher else {"ce": 1.0}
    method = Distill(model, WeightedSum(terms, weights), teacher).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    for group in optimizer.param_groups:
        group["initial_lr"] = LR
    run(Training(method, {"student": optimizer}, machine.scaler()), batches, setup.epochs, machine, go_on=True, seed=seed)
    return top1(model, setup)


def top1(model: nn.Module, setup: Setup) -> float:
    """In percent, on the test split."""
    batches = PlainLoader(setup.data.test, 256, Place(setup.machine.device), Reading(setup.data.image_size))
    logits, targets = answers(model, batches, setup.machine)
    return 100 * top_k_accuracy(logits, targets, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of_machine(parser)
    option_of_images(parser)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--subset", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default="", help="beginnings of rows' names, with commas; else all")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if kind.name.startswith(tuple(options.kinds.split(",")))]
    machine = machine_of(options)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        root = real_images(options.images, parser, folder / "images")
        data = sets.load(DatasetConfig(name="image_folder", root=str(root), subset=options.subset, in_memory="always"))
        images = Images(data.classes, data.image_size, data.mean, data.std)
        guide = obtain(ModelConfig(name="recorded", checkpoint=options.teacher), images, "teacher", 0).classifier
        setup = Setup(data, images, machine, Frozen(guide, machine.precision, machine.device), options.student, options.epochs, folder)
        print(f"teacher {top1(guide, setup):.2f}, {len(data.test):,} test images, {runtime.precision_name(machine.precision)}", flush=True)
        found: dict[str, list[float]] = {kind.name: [] for kind in kinds}
        for seed in range(options.seeds):
            for kind in kinds:
                found[kind.name].append(accuracy(setup, kind, seed))
                print(f"seed {seed}  {kind.name:<42} {found[kind.name][-1]:.2f}", flush=True)
    for name, values in found.items():
        deviation = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{name:<42} {statistics.fmean(values):.2f}{deviation}   ({', '.join(f'{value:.2f}' for value in values)})")


if __name__ == "__main__":
    main()
