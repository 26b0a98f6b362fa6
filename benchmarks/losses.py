"""What each loss costs beside the student's own step; interleaved rounds, medians, shares.

    python benchmarks/losses.py [--threads 1] [--rounds 9] [--only vid ofd] [--device auto] [--precision fp32 bf16]

A loss is timed forward and backward, down to the gradient of the student's taps and of the loss's own parameters, with the weights and
taps of its file and without its label term. The student's plain step is forward, backward and SGD on the labels, without a teacher. The
nets are resnet32x4 and resnet8x4 with random weights.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import in_turn
from common import classifier
from omegaconf import OmegaConf

from distillctl import runtime
from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.teachers.frozen import Frozen
from distillctl.types import Batch, Output

TEACHER, STUDENT, CLASSES, SIZE, BATCH, SAMPLES = "resnet32x4", "resnet8x4", 100, 32, 64, 50_000
TAPS = ("stage1", "stage2", "stage3", "last", "pooled")
STEP = "the student's step"
OF_TEXTS = ("minilmv2", "pkd", "tinybert")  # these nets have no such layers
FILES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "conf" / "loss").glob("*.yaml")) if path.stem not in OF_TEXTS}


def images(device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    return Batch(inputs.to(device), targets.to(device), torch.arange(BATCH, device=device), 0)


def plain_step(batch: Batch, machine: runtime.Runtime) -> Callable[[], None]:
    """Forward, backward and SGD by the labels."""
    model = classifier(STUDENT, CLASSES, SIZE).to(machine.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with machine.autocast():
            logits = model(batch.inputs).logits
        loss = F.cross_entropy(logits.float(), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def own_term(name: str) -> WeightedSum:
    """The loss of a file without its label term, which every training has."""
    content = OmegaConf.to_container(OmegaConf.create({"seed": 0, "loss": OmegaConf.load(FILES[name])}), resolve=True)
    assert isinstance(content, dict)
    return build_loss({name: content["loss"][name]})


def term_step(name: str, student: Output, teacher: Output, batch: Batch, machine: runtime.Runtime) -> Callable[[], None]:
    """Forward and backward of one loss on features that are given."""
    loss = own_term(name)
    torch.manual_seed(0)
    loss.prepare(student, teacher if loss.needs_teacher else None, SAMPLES)
    loss.to(machine.device).train()
    loss.at(1.0, 10)
    read = {*loss.taps("student")} - {"logits"}

    def step() -> None:
        ours = Output(
            student.logits.detach().requires_grad_(), {tap: student.features[tap].detach().requires_grad_() for tap in sorted(read)}
        )
        with machine.autocast():
            total = loss(ours, teacher, batch).loss
        loss.zero_grad()
        total.backward()

    return step


def measure(names: list[str], rounds: int, machine: runtime.Runtime) -> dict[str, float]:
    """Median milliseconds of the student's step and of each loss; all take their turn in every round."""
    batch = images(machine.device)
    student = classifier(STUDENT, CLASSES, SIZE, TAPS).to(machine.device).to(memory_format=torch.channels_last).train()
    with torch.no_grad(), machine.autocast():
        ours = student(batch.inputs)
    theirs = Frozen(classifier(TEACHER, CLASSES, SIZE, TAPS), machine.precision, machine.device)(batch)
    steps = {STEP: plain_step(batch, machine)} | {name: term_step(name, ours, theirs, batch, machine) for name in names}
    times, on_cpu = in_turn(steps, rounds, machine.device), machine.device.type == "cpu"
    return {name: 1000 * statistics.median(spent.cpu if on_cpu else spent.wall for spent in values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=[*FILES], choices=FILES, metavar="LOSS")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=runtime.PRECISIONS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = runtime.choose_device(options.device)
    print(f"{TEACHER} -> {STUDENT}, batch {BATCH}, {SIZE} px, {device}, {options.threads} threads, medians of {options.rounds}")
    found = {name: measure(options.only, options.rounds, runtime.Runtime(device, runtime.PRECISIONS[name])) for name in options.precision}
    print(f"{'':<20}" + "".join(f"{f'{name}, ms':>12}{'share':>8}" for name in found))
    for what in (STEP, *sorted(options.only, key=lambda name: -found[options.precision[-1]][name])):
        print(f"{what:<20}" + "".join(f"{values[what]:>12.2f}{values[what] / values[STEP]:>8.1%}" for values in found.values()))


if __name__ == "__main__":
    main()
