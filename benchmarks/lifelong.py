"""What a step with a memory costs beside a hand-written one of the same forwards, and what lies between two tasks.

    python benchmarks/lifelong.py [--steps 12] [--rounds 9] [--threads 1] [--device auto] [--precision auto]

The hand-written DER++ makes three passes through the net and keeps its memory in plain tensors, filled by a reservoir; it has no checkpoints, no
watch for NaN, no counters, no ranks. Both see the same augmented batches, interleaved. The boundary is all that `distillctl lifelong` does when a task
of 10,000 images of 32 px is learnt, but for measuring: look back, write what is carried over, take it up again, cut out the next task's data.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import compared, in_turn, timed
from common import classifier, epoch_of_method, loader, machine_of, noise, optimizer_for, options_of_machine
from safetensors.torch import load_file
from torch import Tensor

from distillctl import runtime
from distillctl.data.image.loader import ImageLoader
from distillctl.losses.logits import CrossEntropy
from distillctl.losses.weighted import WeightedSum
from distillctl.runs.lifelong.handover import CARRIED, hand_over
from distillctl.runs.lifelong.tasks import Tasks
from distillctl.strategies.memory import Memory
from distillctl.strategies.replay import DerPlusPlus
from distillctl.strategies.task import Task

CLASSES, SIZE, BATCH, KEPT = 10, 32, 32, 500
ALPHA, BETA = 0.2, 0.5
TASK = 10_000


def strategy(name: str, batches: ImageLoader, machine: runtime.Runtime) -> DerPlusPlus:
    batches.gives_plain = True
    assert batches.memory is not None
    memory = Memory(KEPT, BATCH, batches.memory[:1], CLASSES, 0, batches.views_of, with_logits=True)
    student = classifier(name, CLASSES, SIZE).to(machine.device).to(memory_format=torch.channels_last)
    loss = WeightedSum({"ce": CrossEntropy()}, {"ce": 1.0})
    return DerPlusPlus(student, loss, None, task=Task(1, 5, 0, 2, CLASSES), memory=memory, alpha=ALPHA, beta=BETA)


def by_hand(name: str, batches: ImageLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """The same as short as it can be written."""
    model = classifier(name, CLASSES, SIZE).to(machine.device).to(memory_format=torch.channels_last).train()
    optimizer, numbers = optimizer_for(model), iter(range(10**6))
    images_kept = torch.zeros(KEPT, 3, SIZE, SIZE, dtype=torch.uint8, device=machine.device)
    labels_kept = torch.zeros(KEPT, dtype=torch.int64, device=machine.device)
    logits_kept = torch.zeros(KEPT, CLASSES, device=machine.device)
    seen = 0

    def draw() -> Tensor:
        return torch.randperm(min(seen, KEPT), device=machine.device)[:BATCH]

    def epoch() -> None:
        nonlocal seen
        for step, batch in enumerate(batches(next(numbers), 0)):
            with machine.autocast():
                logits = model(batch.inputs).logits
            loss = F.cross_entropy(logits.float(), batch.targets)
            if seen:
                rows = draw()
                with machine.autocast():
                    again = model(batches.augment.views(images_kept[rows], rows, 10**6 + 2 * step)).logits
                loss = loss + ALPHA * F.mse_loss(again.float(), logits_kept[rows])
                rows = draw()
                with machine.autocast():
                    again = model(batches.augment.views(images_kept[rows], rows, 10**6 + 2 * step + 1)).logits
                loss = loss + BETA * F.cross_entropy(again.float(), labels_kept[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert isinstance(batch.plain, Tensor)
            for position in range(len(batch.targets)):
                slot = seen if seen < KEPT else int(torch.randint(0, seen + 1, ()))
                if slot < KEPT:
                    images_kept[slot], labels_kept[slot] = batch.plain[position], batch.targets[position]
                    logits_kept[slot] = logits[position].detach().float()
                seen += 1

    return epoch


def compare(name: str, steps: int, rounds: int, machine: runtime.Runtime) -> None:
    batches = loader(noise(steps * BATCH, SIZE, CLASSES), CLASSES, SIZE, BATCH, machine.device)
    loops = {"ours": epoch_of_method(strategy(name, batches, machine), batches, machine), "by hand": by_hand(name, batches, machine)}
    times = in_turn(loops, rounds, machine.device, warm_ups=2)  # the memory is filled by then
    each = {kind: 1000 * statistics.median(value.wall for value in values) / steps for kind, values in times.items()}
    print(
        f"derpp, {name:<10} ours {each['ours']:6.1f} ms a step   by hand {each['by hand']:6.1f}   "
        f"{compared(times['ours'], times['by hand'])}",
        flush=True,
    )


def boundary(name: str, rounds: int, machine: runtime.Runtime) -> None:
    """From the end of one task's last step to the beginning of the next one's first, without measuring."""
    split = noise(5 * TASK, SIZE, CLASSES)
    tasks = Tasks(tuple(map(str, range(CLASSES))), tuple((2 * number, 2 * number + 1) for number in range(5)))
    batches = loader(split.take(range(KEPT)), CLASSES, SIZE, BATCH, machine.device)
    ready = strategy(name, batches, machine)
    taken = []
    with tempfile.TemporaryDirectory() as folder:

        def work() -> None:
            hand_over(Path(folder), ready)
            carried = load_file(Path(folder) / CARRIED)
            ready.memory.take({entry.removeprefix("memory."): value for entry, value in carried.items()})
            tasks.part(split, [2])

        for _ in range(rounds):
            taken.append(timed(work, machine.device).wall)
    print(
        f"between two tasks of {TASK:,} images, memory of {KEPT}: {statistics.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f}), n = {rounds}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    options_of_machine(parser)
    options = parser.parse_args()
    machine = machine_of(options)
    print(f"batch {BATCH} + {BATCH}, {SIZE} px, {runtime.precision_name(machine.precision)} on {machine.device}, {options.threads} threads")
    for name in ("resnet8", "resnet20"):
        compare(name, options.steps, options.rounds, machine)
    boundary("resnet20", options.rounds, machine)


if __name__ == "__main__":
    main()
