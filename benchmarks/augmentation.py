"""What augmentation costs: beside torchvision's transforms of PIL images one by one, and as a share of a step; interleaved, medians.

    python benchmarks/augmentation.py [--threads 1] [--rounds 25] [--sizes 32 224] [--precision auto]

Views of 32 px are made of images of 32 px, in batches of 128; those of 224 px of images of 256 px, in batches of 16. Ours goes all the way
from the images in memory to the batch: gather, views, mixing. Theirs begins at PIL images that are decoded already, and ends at the stacked
batch. "uint8" is what a loader of ours yields; "float" is normalised too, which ours does inside the model. Mixup beside theirs is timm's,
with a coefficient for each sample as here. A step is forward, backward and SGD of the student by the labels, without a teacher; what an
augmentation is a share of is that step alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from clock import Time, in_turn
from common import MEAN, STD, classifier
from timm.data.mixup import Mixup
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms.functional import to_pil_image

from distillctl import runtime
from distillctl.config import AugmentConfig
from distillctl.data.image.augment import Augment
from distillctl.data.image.loader import ImageLoader, ReadOptions
from distillctl.data.loader import Place
from distillctl.data.split import whole

CLASSES, POOL = 100, 8  # batches of PIL images that take their turn
CPU = torch.device("cpu")
ERASED = 0.25  # of the images

Work = Callable[[], object]


@dataclass(frozen=True)
class Scale:
    """size: of views, stored: of the images in memory, in pixels; samples: how many images there are."""

    size: int
    stored: int
    batch: int
    samples: int
    nets: tuple[str, ...]

    @property
    def pad(self) -> int:
        return 4 if self.stored == self.size else 0


SCALES = (Scale(32, 32, 128, 10240, ("resnet8x4", "resnet20", "resnet8")), Scale(224, 256, 16, 256, ("mobilenet_v2",)))


def kinds(pad: int) -> dict[str, AugmentConfig]:
    return {
        "crop, flip": AugmentConfig(pad=pad),
        "resized crop, flip": AugmentConfig(crop="resized"),
        "crop, flip, RandAugment": AugmentConfig(pad=pad, policy="randaugment"),
        "crop, flip, TrivialAugment": AugmentConfig(pad=pad, policy="trivialaugment"),
        "crop, flip, erasing": AugmentConfig(pad=pad, erasing=ERASED),
        "crop, flip, mixup": AugmentConfig(pad=pad, mixup=1.0),
    }


def smooth_images(scale: Scale) -> tuple[Tensor, Tensor]:
    """uint8 [N, 3, H, W] whose levels and edges are as few as those of photographs, and labels int64 [N]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(scale.samples, 3, 8, 8, generator=generator)
    images = F.interpolate(coarse, (scale.stored, scale.stored), mode="bicubic").mul_(255).clamp_(0, 255).byte()
    return images, torch.randint(0, CLASSES, (scale.samples,), generator=generator)


def ours(config: AugmentConfig, scale: Scale, images: Tensor, targets: Tensor, prepare: Callable[[Tensor], Tensor] | None = None) -> Work:
    """The next batch of the training loader; with `prepare`, as the net sees it."""
    augment = Augment(config, scale.size, CLASSES, seed=0)
    loader = ImageLoader(whole(images, targets), augment, scale.batch, 0, Place(CPU), ReadOptions(scale.size))
    batches = itertools.chain.from_iterable(loader(epoch) for epoch in itertools.count())
    return lambda: next(batches).inputs if prepare is None else prepare(next(batches).inputs)


def theirs(config: AugmentConfig, scale: Scale, images: Tensor, targets: Tensor, normalised: bool) -> Work:
    """The same by torchvision's transforms of each image, as recipes for the CIFAR sets and ImageNet write it."""
    crop = T.RandomResizedCrop(scale.size) if config.crop == "resized" else T.RandomCrop(scale.size, config.pad or None)
    policies = {"none": (), "randaugment": (T.RandAugment(config.num_ops, config.magnitude),), "trivialaugment": (T.TrivialAugmentWide(),)}
    to_tensor = (T.ToTensor(), T.Normalize(MEAN, STD)) if normalised else (T.PILToTensor(),)
    erasing = (T.RandomErasing(config.erasing),) if config.erasing else ()
    transform = T.Compose([crop, T.RandomHorizontalFlip(config.flip), *policies[config.policy], *to_tensor, *erasing])
    mix = Mixup(config.mixup, mode="elem", num_classes=CLASSES, label_smoothing=0.0) if config.mixup else lambda *batch: batch
    pictures = [to_pil_image(image) for image in images[: POOL * scale.batch]]
    starts = itertools.cycle(range(0, len(pictures), scale.batch))

    def batch() -> Tensor:
        rows = slice(start := next(starts), start + scale.batch)
        return mix(torch.stack([transform(picture) for picture in pictures[rows]]), targets[rows])[0]

    return batch


def step(name: str, scale: Scale, images: Tensor, targets: Tensor, machine: runtime.Runtime) -> Work:
    """Forward, backward and SGD by the labels, on a batch that is there."""
    model = classifier(name, CLASSES, scale.size).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
    inputs, labels = images[: scale.batch, :, : scale.size, : scale.size].contiguous(), targets[: scale.batch]

    def work() -> None:
        with machine.autocast():
            logits = model(inputs).logits
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work


def measure(works: dict[str, Work], rounds: int) -> dict[str, Time]:
    """Medians; all take their turn in every round."""
    return {
        name: Time(statistics.median(time.wall for time in values), statistics.median(time.cpu for time in values))
        for name, values in in_turn(works, rounds, CPU).items()
    }


def compare(scale: Scale, rounds: int) -> None:
    images, targets = smooth_images(scale)
    prepare = classifier(scale.nets[0], CLASSES, scale.size).prepare
    works: dict[str, Work] = {}
    for kind, config in kinds(scale.pad).items():
        works[f"{kind}|uint8|ours"] = ours(config, scale, images, targets)
        works[f"{kind}|float|ours"] = ours(config, scale, images, targets, prepare)
        works[f"{kind}|float|theirs"] = theirs(config, scale, images, targets, normalised=True)
        if not config.mixup:  # which takes floats there
            works[f"{kind}|uint8|theirs"] = theirs(config, scale, images, targets, normalised=False)
    found = measure(works, rounds)
    print(f"{scale.size} px, batch {scale.batch}, CPU time in ms and its ratio, in brackets that by the wall, medians of {rounds}")
    print(f"{'':<28}" + "".join(f"{f'{form}: ours':>14}{'PIL':>8}{'ratio':>16}" for form in ("uint8", "float")))
    for kind in kinds(scale.pad):
        row = f"{kind:<28}"
        for form in ("uint8", "float"):
            mine, other = found[f"{kind}|{form}|ours"], found.get(f"{kind}|{form}|theirs")
            row += f"{1000 * mine.cpu:>14.2f}"
            row += (
                f"{1000 * other.cpu:>8.1f}{f'{other.cpu / mine.cpu:.1f} ({other.wall / mine.wall:.1f})':>16}"
                if other
                else f"{'-':>8}{'-':>16}"
            )
        print(row, flush=True)


def shares(scale: Scale, rounds: int, machine: runtime.Runtime) -> None:
    images, targets = smooth_images(scale)
    works = {name: step(name, scale, images, targets, machine) for name in scale.nets}
    works |= {kind: ours(config, scale, images, targets) for kind, config in kinds(scale.pad).items()}
    found = {name: 1000 * time.cpu for name, time in measure(works, rounds).items()}
    print(f"{scale.size} px, batch {scale.batch}, {runtime.precision_name(machine.precision)}, CPU time, medians of {rounds}")
    print(f"{'':<28}{'ms':>10}" + "".join(f"{'of ' + name:>18}" for name in scale.nets))
    print(f"{'a step':<28}{'':>10}" + "".join(f"{f'{found[name]:.0f} ms':>18}" for name in scale.nets))
    for kind in kinds(scale.pad):
        print(f"{kind:<28}{found[kind]:>10.2f}" + "".join(f"{found[kind] / found[name]:>18.2%}" for name in scale.nets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--sizes", type=int, nargs="+", default=[scale.size for scale in SCALES])
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = runtime.Runtime(CPU, runtime.choose_precision(options.precision, CPU))
    for scale in SCALES:
        if scale.size in options.sizes:
            compare(scale, options.rounds)
            shares(scale, options.rounds, machine)


if __name__ == "__main__":
    main()
