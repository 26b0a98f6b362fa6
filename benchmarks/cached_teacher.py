"""What kept answers of a teacher save: a student's epoch by labels, by a live teacher, and by a cache; interleaved, medians, ratios.

    python benchmarks/cached_teacher.py [--threads 1] [--rounds 5] [--steps 4] [--device auto] [--precision auto]

resnet32x4 -> resnet8x4, batch 64 at 32 px, 100 classes, fp16 records; all three run the same `fit` on the same batches.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
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
from distillctl.teachers.cached import Cached
from distillctl.teachers.frozen import Frozen
from distillctl.teachers.records import Layout
from distillctl.teachers.store import Store

TEACHER, STUDENT, CLASSES, SIZE, BATCH = "resnet32x4", "resnet8x4", 100, 32, 64
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS, LIVE, KEPT = "labels alone", "live teacher", "kept answers"


def classifier(name: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_net(ModelConfig(name=name), CLASSES, SIZE).module, *STATISTICS)


def epoch_of(guide: Frozen | None, batches: TrainLoader, machine: runtime.Runtime) -> Callable[[], None]:
    """One epoch of `fit`."""
    model = classifier(STUDENT).to(machine.device).to(memory_format=torch.channels_last)
    terms: dict[str, torch.nn.Module] = {"ce": CrossEntropy()} | ({"kd": SoftTargets(4.0)} if guide else {})
    method = Distill(model, WeightedSum(terms, dict.fromkeys(terms, 1.0)), guide).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    training = Training(method, {"student": optimizer}, machine.scaler())
    plan = Plan(10**6, batches.batches_per_epoch, BATCH, 0, Cosine())

    def epoch() -> None:
        nothing = {"after_step": lambda report: None, "save": lambda training: None, "asked_to_stop": lambda: False}
        fit(training, batches, plan, machine, after_epoch=lambda *_: False, **nothing)  # type: ignore[arg-type]

    return epoch


def measure(steps: int, rounds: int, machine: runtime.Runtime, folder: Path) -> dict[str, list[float]]:
    """Seconds of each kind of epoch, all taking their turn in every round. The first epoch of each is not counted: it fills the cache."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * BATCH, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (len(images),), generator=generator)
    augment = Augment(AugmentConfig(), SIZE, CLASSES, seed=0)
    batches = TrainLoader(whole(images, targets), augment, BATCH, 0, Place(machine.device), Reading(SIZE), views=1)
    layout = Layout(1, CLASSES)
    live = Frozen(classifier(TEACHER), machine.precision, machine.device)
    kept = Cached(live, layout, Store(folder, "benchmark", layout, len(images), print), batches.split.index)
    epochs = {name: epoch_of(guide, batches, machine) for name, guide in ((LABELS, None), (LIVE, live), (KEPT, kept))}
    for epoch in epochs.values():
        epoch()
    asked, times = kept.asked, {name: [] for name in epochs}
    for number in range(rounds):  # forwards and backwards, so that a drift of the machine hits all alike
        for name in sorted(epochs, reverse=bool(number % 2)):
            times[name].append(timed(epochs[name], machine.device))
    assert kept.asked == asked, "the teacher was asked after the first pass"
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = runtime.choose_device(options.device)
    machine = runtime.Runtime(device, runtime.choose_precision(options.precision, device))
    with tempfile.TemporaryDirectory() as folder:
        times = measure(options.steps, options.rounds, machine, Path(folder))
    print(
        f"{TEACHER} -> {STUDENT}, batch {BATCH}, {SIZE} px, {device}, {runtime.precision_name(machine.precision)}, medians of {options.rounds}"
    )
    print(f"{'':<14}{'img/s':>8}{'over labels alone (least to most)':>40}")
    for name, values in times.items():
        ratios = sorted(value / plain for value, plain in zip(values, times[LABELS], strict=True))
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        print(f"{name:<14}{options.steps * BATCH / statistics.median(values):>8.0f}{spread:>40}")


if __name__ == "__main__":
    main()
