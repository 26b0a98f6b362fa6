"""Small nets in double precision, batches for them, and losses said once more in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillctl.losses.weighted import WeightedSum, build_loss
from distillctl.models.cosine import CosineHead
from distillctl.strategies.memory import Memory
from distillctl.strategies.task import Task
from distillctl.types import Batch, Output

WIDE, CLASSES = 6, 5
CE, T = 0.7, 2.0
KD = 1.3
LATER = Task(2, 2, 3, CLASSES, CLASSES)  # three classes are old, two are new
FIRST = Task(1, 2, 0, 3, CLASSES)


class Student(nn.Module):
    """Logits and a feature of flat inputs; `asked` says how many samples came at a time."""

    def __init__(self, seed: int = 0, classes: int = CLASSES):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(WIDE, 7), nn.Tanh(), nn.Linear(7, classes)).double()
        self.asked: list[int] = []

    def forward(self, inputs: Tensor) -> Output:
        self.asked.append(len(inputs))
        middle = self.net[1](self.net[0](inputs))
        return Output(self.net[2](middle), {"pooled": middle})


class Angled(Student):
    """With a cosine classifier, and three maps [B, 2, 3, 2] of what is before it."""

    def __init__(self, seed: int = 0, classes: int = CLASSES, proxies: int = 1):
        super().__init__(seed, classes)
        self.net[2] = CosineHead(7, classes, proxies).double()
        with torch.no_grad():
            self.net[2].scale.fill_(1.7)

    def forward(self, inputs: Tensor) -> Output:
        answer = super().forward(inputs)
        middle = answer.features["pooled"]
        maps = torch.cat([middle, middle[:, :5] ** 2], 1).view(-1, 2, 3, 2)
        return answer._replace(features={"pooled": middle, "stage1": maps, "stage2": maps.sin(), "stage3": maps + 0.3})


def answering(net: nn.Module):
    """A teacher: it answers in full precision, and nothing of it is learnt."""

    def answer(batch: Batch) -> Output:
        with torch.no_grad():
            return net(batch.inputs)

    return answer


def loss() -> WeightedSum:
    where = "distillctl.losses.logits"
    return build_loss(
        {
            "ce": {"_target_": f"{where}.CrossEntropy", "weight": CE},
            "kd": {"_target_": f"{where}.SoftTargets", "weight": KD, "temperature": T},
        }
    )


def batch(number: int, size: int = 10, low: int = 0, high: int = CLASSES) -> Batch:
    """Of classes `low` to `high` - 1; what is stored is not what the view shows."""
    generator = torch.Generator().manual_seed(number)
    plain = torch.randn(size, WIDE, generator=generator, dtype=torch.float64)
    targets = torch.randint(low, high, (size,), generator=generator)
    index = 1000 * number + torch.arange(size)
    return Batch(view_of(plain, index, 3), targets, index, 3, plain=plain)


def view_of(inputs: Tensor, index: Tensor, view: int) -> Tensor:
    """Each view of a sample is another."""
    return inputs + 0.1 * torch.sin((index * 7 + view % 1000).double())[:, None]


def memory(size: int = 20, once: int = 7, select: str = "reservoir", logits: bool = False, seed: int = 5) -> Memory:
    return Memory(size, once, torch.zeros(1, WIDE, dtype=torch.float64), CLASSES, seed, view_of, select, logits)


def filled(kept: Memory, student: nn.Module, batches: int = 3, high: int = 3) -> Memory:
    """A memory that an earlier task has gone through."""
    for number in range(100, 100 + batches):
        came = batch(number, high=high)
        with torch.no_grad():
            kept.observe(came, student(came.inputs).logits)
        kept.keep()
    return kept


def herded(size: int = 20) -> Memory:
    """A memory that was filled with exemplars at the end of the first task."""
    kept, came = memory(size, select="herding"), batch(50, 12, high=3)
    kept.fill(came.plain, came.targets, came.index)
    return kept


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


# ----------------------------------------------------------------------------------------- the same in plain loops


def softmax(row: Sequence[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def cross_entropy(logits: Tensor, targets: Tensor) -> float:
    return mean([-math.log(softmax(row)[label]) for row, label in zip(logits.tolist(), targets.tolist(), strict=True)])


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T² KL(teacher ‖ student), mean over samples."""
    found = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(ours, temperature), softmax(theirs, temperature)
        found.append(temperature**2 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)))
    return mean(found)


def squared_distance(one: Tensor, other: Tensor) -> float:
    """Mean over all entries."""
    pairs = [(a, b) for left, right in zip(one.tolist(), other.tolist(), strict=True) for a, b in zip(left, right, strict=True)]
    return mean([(a - b) ** 2 for a, b in pairs])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def binary(logits: Tensor, old: Tensor | None, targets: Tensor, known: int) -> float:
    """Algorithm 3 of iCaRL: new classes by the label, old ones by what the old net's sigmoid says; summed over classes, mean over samples."""
    found = []
    for place, (row, label) in enumerate(zip(logits.tolist(), targets.tolist(), strict=True)):
        of_sample = 0.0
        for class_, value in enumerate(row):
            wanted = float(class_ == label)
            if old is not None and class_ < known:
                wanted = sigmoid(old[place, class_].item())
            of_sample -= wanted * math.log(sigmoid(value)) + (1 - wanted) * math.log(1 - sigmoid(value))
        found.append(of_sample)
    return mean(found)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.sqrt(sum(a**2 for a in one)) * math.sqrt(sum(b**2 for b in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def similarities(features: Tensor, weight: Tensor) -> list[list[float]]:
    """Of features [B, D] to each class's directions [K, P, D]: eq. 7 and 8 of PODNet, with P = 1 the cosine."""
    found = []
    for row in features.tolist():
        of_sample = []
        for directions in weight.tolist():
            cosines = [cosine(row, direction) for direction in directions]
            of_sample.append(sum(share * value for share, value in zip(softmax(cosines), cosines, strict=True)))
        found.append(of_sample)
    return found


def turned(now: Tensor, then: Tensor) -> float:
    """Mean of one minus the cosine between features."""
    return mean([1 - cosine(a, b) for a, b in zip(now.tolist(), then.tolist(), strict=True)])


def ranked(cosines: Sequence[Sequence[float]], targets: Tensor, known: int, hardest: int, margin: float) -> float:
    """Eq. 8 of LUCIR."""
    found = []
    for row, label in zip(cosines, targets.tolist(), strict=True):
        nearest = sorted(row[known:], reverse=True)[:hardest]
        found.append(sum(max(margin - row[label] + value, 0.0) for value in nearest))
    return mean(found)


def neighbours(similar: Sequence[Sequence[float]], targets: Tensor, scale: float, margin: float) -> float:
    """Eq. 9 of PODNet."""
    found = []
    for row, label in zip(similar, targets.tolist(), strict=True):
        others = sum(math.exp(scale * value) for class_, value in enumerate(row) if class_ != label)
        found.append(max(-math.log(math.exp(scale * (row[label] - margin)) / others), 0.0))
    return mean(found)


def along_both(maps: Sequence) -> list[float]:
    """A sample's maps [C, H, W]: squares summed over the width and over the height, of length one."""
    rows = [sum(value**2 for value in row) for channel in maps for row in channel]
    columns = [sum(row[place] ** 2 for row in channel) for channel in maps for place in range(len(channel[0]))]
    length = math.sqrt(sum(value**2 for value in rows + columns))
    return [value / length for value in rows + columns]


def apart(now: Tensor, then: Tensor) -> float:
    """Mean Euclidean distance of pooled maps."""
    pairs = [(along_both(a), along_both(b)) for a, b in zip(now.tolist(), then.tolist(), strict=True)]
    return mean([math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True))) for one, other in pairs])
