"""What banks of views cost in accuracy, and what wrong caches cost: one student by each, on real images, over seeds.

    python benchmarks/cache_accuracy.py [--teacher RUN] [--images FOLDER] [--subset 5000] [--epochs 24] [--seeds 3] [--kinds live kept]

Test accuracy of the last epoch: nothing is selected.
The wrong caches are what other tools do: nothing here offers them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from common import run
from students import BATCH, TEMPERATURE, Setup, compare, setup
from torch import Tensor, nn

from distillctl.config import AugmentConfig
from distillctl.data.image import mixing
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, PlainImages, ReadOptions
from distillctl.data.loader import Place
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.teachers.frozen import Frozen
from distillctl.training import Training
from distillctl.types import Batch, Output

LABELS_SHARE, MIXUP = 0.1, 1.0


def live(setup: Setup, batches: ImageLoader, folder: Path) -> Frozen:
    return setup.guide()


def kept(setup: Setup, batches: ImageLoader, folder: Path) -> Frozen:
    """As `distillctl` keeps answers, in fp16."""
    return setup.cached(folder, f"seed-{batches.augment.seed}-mixup-{batches.augment.config.mixup}")


class OneAnswer(Frozen):
    """Wrong: the teacher's answer to each image as it is, whatever view of it the student sees; of mixed images, mixed as they are."""

    def __init__(self, setup: Setup, batches: ImageLoader, folder: Path):
        self.batches, teacher = batches, setup.guide()
        plain = PlainImages(batches.split, 256, Place(setup.machine.device), batches.reading)
        logits = torch.cat([teacher(batch).logits for batch in plain])
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

    def __init__(self, setup: Setup, batches: ImageLoader, folder: Path):
        self.batches, self.teacher = batches, setup.guide()
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


def mixture_of(batches: ImageLoader, batch: Batch) -> tuple[Tensor, Tensor]:
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
    teacher: Callable[[Setup, ImageLoader, Path], Frozen] | None = None


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


def accuracy(kind: Kind, folder: Path, setup: Setup, seed: int) -> float:
    """Top-1 % on the test split of a student after its last epoch."""
    data, machine = setup.data, setup.machine
    augment = Augment(AugmentConfig(mixup=kind.mixup), data.image_size, len(data.classes), seed)
    batches = ImageLoader(data.train, augment, BATCH, seed, Place(machine.device), ReadOptions(data.image_size), kind.views)
    teacher = kind.teacher(setup, batches, folder) if kind.teacher else None
    model = setup.model("student", seed).to(machine.device).to(memory_format=torch.channels_last)
    terms: dict[str, nn.Module] = {"ce": CrossEntropy()} | ({"kd": SoftTargets(TEMPERATURE)} if teacher else {})
    weights = {"ce": LABELS_SHARE, "kd": 1 - LABELS_SHARE} if teacher else {"ce": 1.0}
    method = Distill(model, WeightedSum(terms, weights), teacher).train()
    optimizer = setup.optimizer(method)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    run(Training(method, {"student": optimizer}, machine.scaler()), batches, setup.epochs, machine, go_on=True, seed=seed)
    return setup.accuracy(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=[""], help="beginnings of rows' names; else all")
    with setup(parser, epochs=24) as (made, options), tempfile.TemporaryDirectory() as folder:
        chosen = [kind for kind in KINDS if kind.name.startswith(tuple(options.kinds))]
        compare(made, {kind.name: partial(accuracy, kind, Path(folder)) for kind in chosen})


if __name__ == "__main__":
    main()
