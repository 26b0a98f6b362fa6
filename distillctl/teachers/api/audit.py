"""How far labels of a teacher agree with labels that people gave to the same texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distillctl.errors import DataError, did_you_mean
from distillctl.teachers.api.outcome import Labelled

Z = 1.959964  # of a two-sided interval of 95 %
EXAMPLES = 3  # texts that are named of each confusion


@dataclass(frozen=True)
class Share:
    """right of n."""

    right: int
    n: int

    @property
    def value(self) -> float:
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of Wilson 1927: of a few labels it is neither empty nor beyond 0 and 1."""
        if not self.n:
            return 0.0, 1.0
        share, z2 = self.value, Z * Z / self.n
        middle, half = share + z2 / 2, Z * math.sqrt((share * (1 - share) + z2 / 4) / self.n)
        return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


@dataclass(frozen=True)
class ClassAgreement:
    """recall: of the texts that people gave this class. precision: of those that the teacher gave it."""

    name: str
    recall: Share
    precision: Share


@dataclass(frozen=True)
class Confusion:
    """Texts that people call one thing and the teacher another."""

    human: str
    teacher: str
    count: int
    examples: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Audit:
    """given_up: texts with a human label that the teacher has none for; they are not among the others. kappa: agreement beyond chance,
    Cohen 1960, eq. 1; not a number where chance alone agrees everywhere."""

    agreement: Share
    kappa: float
    classes: tuple[ClassAgreement, ...]
    confusions: tuple[Confusion, ...]
    given_up: int


def audit(labelled: Labelled, human: Mapping[str, str]) -> Audit:
    """human: a class by the key of its text. Raises DataError for a text or a class that there is not, and for no label at all."""
    classes, places = list(labelled.classes), {key: row for row, key in enumerate(labelled.keys)}
    for key, name in human.items():
        if key not in places:
            raise DataError(f"human label {name!r} of {key!r}: no text of that name; {did_you_mean(key, places)}")
        if name not in classes:
            raise DataError(f"human label {name!r} of {key!r}: no such class; {did_you_mean(name, classes)}")
    answered, chosen = labelled.answered, labelled.probabilities
    pairs = [(key, name, classes[int(chosen[places[key]].argmax())]) for key, name in human.items() if answered[places[key]]]
    if not pairs:
        raise DataError("human labels: none is of a text that the teacher has labelled, so nothing can be compared; label some of those")
    return compared(pairs, classes, given_up=len(human) - len(pairs))


def compared(pairs: Sequence[tuple[str, str, str]], classes: Sequence[str], given_up: int) -> Audit:
    """pairs: (key, class by people, class by the teacher), at least one."""
    together = Counter((people, teacher) for _, people, teacher in pairs)
    by_people, by_teacher = Counter(people for _, people, _ in pairs), Counter(teacher for _, _, teacher in pairs)
    right = {name: together[name, name] for name in classes}
    agreement = Share(sum(right.values()), len(pairs))
    chance = sum(by_people[name] * by_teacher[name] for name in classes) / len(pairs) ** 2
    confusions = [
        Confusion(*names, count, tuple(key for key, *given in pairs if tuple(given) == names)[:EXAMPLES])
        for names, count in sorted(together.items(), key=lambda item: (-item[1], item[0]))
        if names[0] != names[1]
    ]
    return Audit(
        agreement,
        (agreement.value - chance) / (1 - chance) if chance < 1 else math.nan,
        tuple(ClassAgreement(name, Share(right[name], by_people[name]), Share(right[name], by_teacher[name])) for name in classes),
        tuple(confusions),
        given_up,
    )
