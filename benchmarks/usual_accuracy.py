"""What a student of the usual loop and students of ours reach at the same budget, on real images, over seeds.

    python benchmarks/usual_accuracy.py [--teacher RUN] [--images FOLDER] [--subset 5000] [--epochs 8] [--seeds 3] [--threads 1]

For all the same data, initial weights of each seed, batch size, loss (labels, and T² KL at T = 4, at equal weights), SGD and cosine; nothing is selected.
The usual loop is that of usual_loop.py, all in fp32. Ours computes as `distillctl distill` does, with a live teacher, and with answers that were
kept before in fp16 and are only read; the time of the latter has the pass that asks.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from common import loader, run, training_of
from students import BATCH, TEMPERATURE, Setup, compare, setup
from torch.utils.data import DataLoader
from usual_loop import Pictures, augmented, train

from distillctl import runtime
from distillctl.data.image.loader import ImageLoader
from distillctl.teachers.frozen import Frozen

FP32 = runtime.Runtime(torch.device("cpu"), torch.float32)


def usual(setup: Setup, seed: int) -> float:
    torch.manual_seed(seed)
    student, teacher = setup.model("student", seed), setup.model("teacher", 0)
    student.mean, student.std = teacher.mean, teacher.std  # both see the same normalised images
    transform = augmented(setup.data.image_size, tuple(teacher.mean.flatten().tolist()), tuple(teacher.std.flatten().tolist()))
    batches = DataLoader(Pictures(setup.data.train, transform), BATCH, shuffle=True, drop_last=True)
    optimizer = setup.optimizer(student.net)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setup.epochs * len(batches))
    train(student.net, teacher.net, batches, optimizer, setup.epochs, TEMPERATURE, scheduler)
    return setup.accuracy(student, FP32)


def live(setup: Setup, seed: int) -> float:
    return ours(setup, seed, setup.guide())


def kept(setup: Setup, seed: int) -> float:
    """Another pass over the same views asked and kept, as an earlier job of a sweep does; this one reads."""
    with tempfile.TemporaryDirectory() as folder:
        filling, batches = setup.cached(Path(folder), "accuracy"), views(setup, seed)
        for epoch in range(setup.epochs):
            for batch in batches(epoch):
                filling(batch)
        return ours(setup, seed, setup.cached(Path(folder), "accuracy", strict=True))


def ours(setup: Setup, seed: int, guide: Frozen) -> float:
    student = setup.model("student", seed)
    run(
        training_of(student, guide, setup.machine, setup.optimizer, TEMPERATURE),
        views(setup, seed),
        setup.epochs,
        setup.machine,
        True,
        seed,
    )
    return setup.accuracy(student)


def views(setup: Setup, seed: int) -> ImageLoader:
    return loader(setup.data.train, len(setup.data.classes), setup.data.image_size, BATCH, setup.machine.device, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    with setup(parser, epochs=8) as (made, _):
        compare(made, {"usual loop": usual, "ours, live": live, "ours, kept": kept})


if __name__ == "__main__":
    main()
