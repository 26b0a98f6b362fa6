"""What our training loop costs beside a minimal hand-written one that does the same work; interleaved, medians, ratios.

    python benchmarks/training_loop.py [--steps 12] [--rounds 9] [--device auto]

Both loops train the same net on the same augmented batches, at the same precision and memory format, from memory.
The hand-written one has no checkpoints, no watch for NaN, no schedule, no counters, no logging.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from clock import timed

from distillctl import runtime
from distillctl.config import AugmentConfig, ModelConfig
from distillctl.data.augment import Augment
from distillctl.data.loader import Place, Reading, TrainLoader
from distillctl.data.split import whole
from distillctl.loop import Plan, Training, fit
from distillctl.losses.logits import CrossEntropy, SoftTargets
from distillctl.losses.weighted import WeightedSum
from distillctl.methods.distill import Distill
from distillctl.models.adapter import Classifier
from distillctl.models.build import build_net
from distillctl.schedules import Cosine
from distillctl.teachers.frozen import Frozen

CLASSES, SIZE, BATCH = 100, 32, 64
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def classifier(name: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_net(ModelConfig(name=name), CLASSES, SIZE).module, *STATISTICS)


def optimizer_for(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def ours(student: str, teacher: str | None, batches: TrainLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """One epoch of `fit`."""
    model = classifier(student).to(machine.device).to(memory_format=torch.channels_last)
    guide = Frozen(classifier(teacher), machine.precision, machine.device) if teacher else None
    terms: dict[str, torch.nn.Module] = {"ce": CrossEntropy()} | ({"kd": SoftTargets(4.0)} if teacher else {})
    method = Distill(model, WeightedSum(terms, dict.fromkeys(terms, 1.0)), guide).train()
    optimizer = optimizer_for(method)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    training = Training(method, {"student": optimizer}, machine.scaler())
    plan = Plan(10**6, batches.batches_per_epoch, BATCH, 0, Cosine())

    def epoch() -> None:
        nothing = {"after_step": lambda report: None, "save": lambda training: None, "asked_to_stop": lambda: False}
        fit(training, batches, plan, machine, after_epoch=lambda *_: False, **nothing)  # type: ignore[arg-type]

    return epoch


def by_hand(student: str, teacher: str | None, batches: TrainLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """The same epoch as short as it can be written."""
    model = classifier(student).to(machine.device).to(memory_format=torch.channels_last).train()
    guide = classifier(teacher).to(machine.device).to(memory_format=torch.channels_last).eval() if teacher else None
    optimizer = optimizer_for(model)
    numbers = iter(range(10**6))

    def epoch() -> None:
        for images, targets, _, _ in batches(next(numbers), 0):
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
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * BATCH, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (len(images),), generator=generator)
    augment = Augment(AugmentConfig(), SIZE, CLASSES, seed=0)
    batches = TrainLoader(whole(images, targets), augment, BATCH, 0, Place(machine.device), Reading(SIZE))
    loops = {"ours": ours(student, teacher, batches, machine), "by hand": by_hand(student, teacher, batches, machine)}
    for loop in loops.values():
        loop()
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):  # which goes first alternates, so that a drift of the machine hits both alike
        for name in sorted(loops, reverse=bool(number % 2)):
            times[name].append(timed(loops[name], machine.device))
    rates = {name: steps * BATCH / statistics.median(values) for name, values in times.items()}
    ratios = [mine / other for mine, other in zip(times["ours"], times["by hand"], strict=True)]
    what = f"{teacher} -> {student}" if teacher else f"{student} alone"
    print(
        f"{what:<26} ours {rates['ours']:>8,.0f} img/s   by hand {rates['by hand']:>8,.0f} img/s   "
        f"time ratio {statistics.median(ratios):.3f} (n = {rounds}, {min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = runtime.choose_device(options.device)
    machine = runtime.Runtime(device, runtime.best_precision(device))
    print(f"batch {BATCH}, {SIZE} px, {runtime.precision_name(machine.precision)} on {device}, {torch.get_num_threads()} threads")
    for student, teacher in (("resnet8x4", None), ("resnet8x4", "resnet32x4"), ("resnet20", None), ("resnet20", "resnet56")):
        compare(student, teacher, options.steps, options.rounds, machine)


if __name__ == "__main__":
    main()
