"""What our training loop costs beside a minimal hand-written one that does the same work; interleaved, medians, ratios.

    python benchmarks/training_loop.py [--steps 12] [--rounds 9] [--threads 1] [--device auto] [--precision auto]

Both loops train the same net on the same augmented batches, at the same precision and memory format, from memory.
The hand-written one has no checkpoints, no watch for NaN, no schedule, no counters, no logging.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from clock import compared, in_turn
from common import classifier, epoch_of, loader, machine_of, noise, optimizer_for, options_of_machine

from distillctl import runtime
from distillctl.data.image.loader import ImageLoader
from distillctl.teachers.frozen import Frozen

CLASSES, SIZE, BATCH = 100, 32, 64


def ours(student: str, teacher: str | None, batches: ImageLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """One epoch of `fit`."""
    guide = Frozen(classifier(teacher, CLASSES, SIZE), machine.precision, machine.device) if teacher else None
    return epoch_of(classifier(student, CLASSES, SIZE), guide, batches, machine)


def by_hand(student: str, teacher: str | None, batches: ImageLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """The same epoch as short as it can be written."""
    model = classifier(student, CLASSES, SIZE).to(machine.device).to(memory_format=torch.channels_last).train()
    guide = classifier(teacher, CLASSES, SIZE).to(machine.device).to(memory_format=torch.channels_last).eval() if teacher else None
    optimizer = optimizer_for(model)
    numbers = iter(range(10**6))

    def epoch() -> None:
        for batch in batches(next(numbers), 0):
            images, targets = batch.inputs, batch.targets
            with machine.autocast():
                logits = model(images).logits
            loss = F.cross_entropy(logits.float(), targets)
            if guide is not None:
                with torch.inference_mode(), machine.autocast():
                    answer = guide(images).logits
                target = F.softmax(answer.float() / 4, -1).clone()
                loss = loss + 16 * F.kl_div(F.log_softmax(logits.float() / 4, -1), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def compare(student: str, teacher: str | None, steps: int, rounds: int, machine: runtime.Runtime) -> None:
    batches = loader(noise(steps * BATCH, SIZE, CLASSES), CLASSES, SIZE, BATCH, machine.device)
    loops = {"ours": ours(student, teacher, batches, machine), "by hand": by_hand(student, teacher, batches, machine)}
    times = in_turn(loops, rounds, machine.device)
    rates = {name: steps * BATCH / statistics.median(value.wall for value in values) for name, values in times.items()}
    what = f"{teacher} -> {student}" if teacher else f"{student} alone"
    print(
        f"{what:<26} ours {rates['ours']:>8,.0f} img/s   by hand {rates['by hand']:>8,.0f} img/s   "
        f"{compared(times['ours'], times['by hand'])}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    options_of_machine(parser)
    options = parser.parse_args()
    machine = machine_of(options)
    print(f"batch {BATCH}, {SIZE} px, {runtime.precision_name(machine.precision)} on {machine.device}, {options.threads} threads")
    for student, teacher in (("resnet8x4", None), ("resnet8x4", "resnet32x4"), ("resnet20", None), ("resnet20", "resnet56")):
        compare(student, teacher, options.steps, options.rounds, machine)


if __name__ == "__main__":
    main()
