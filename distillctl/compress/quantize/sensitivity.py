"""Which layers int8 hurts, found one at a time on validation, and the fewest to leave in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from distillctl.compress.quantize.figures import Quality, quality
from distillctl.compress.quantize.graph import Model, weighted_nodes
from distillctl.compress.quantize.ranges import Ranges
from distillctl.compress.quantize.samples import Samples
from distillctl.compress.quantize.session import answer_of, logits_of
from distillctl.compress.quantize.static import static_model

EVALUATIONS = 48  # passes over the validation set, at most

Judge = Callable[[Collection[str]], Quality]  # of the file with these nodes in float


@dataclass(frozen=True)
class Hurt:
    """Neighbouring layers, and what the net answers where they alone are in int8."""

    nodes: tuple[str, ...]
    quality: Quality


@dataclass(frozen=True)
class Kept:
    """nodes: to leave in float, of `layers`. quality: of the file with them in float. problem: why even that is not good enough."""

    nodes: tuple[str, ...]
    layers: int
    quality: Quality
    problem: str | None
    evaluations: int
    hurts: tuple[Hurt, ...] = ()

    @property
    def sentence(self) -> str:
        if self.problem:
            return f"no set of layers in float is enough, short of all: {self.problem}"
        if not self.nodes:
            return f"all {self.layers} layers in int8: agreement {self.quality.agreement:.3f} on {self.quality.n} validation images"
        names = ", ".join(self.nodes[:3]) + (", ..." if len(self.nodes) > 3 else "")
        return (
            f"{len(self.nodes)} of {self.layers} layers stay in float ({names}): agreement {self.quality.agreement:.3f} "
            f"on {self.quality.n} validation images"
        )


def find_kept(
    model: Model,
    ranges: Ranges,
    validation: Samples,
    targets: Tensor | None,
    *,
    max_drop: float,
    min_agreement: float,
    per_channel: bool = True,
    evaluations: int = EVALUATIONS,
) -> Kept:
    """The fewest layers of an fp32 model to leave in float, so that its static int8 file answers within both bounds.

    Layers are nodes with weights. Each is quantised alone (neighbours together, where that would be more than half of `evaluations`), and
    they are left in float from the one that hurts most, by agreement and then by KL; how many is found by halving, and of these, as long
    as evaluations last, each that is not needed after all goes back to int8. That is greedy: another set may be smaller.
    """
    reference = logits_of(answer_of(model), validation)

    def judge(keep_float: Collection[str]) -> Quality:
        changed = static_model(model, ranges, keep_float, per_channel=per_channel)
        return quality(logits_of(answer_of(changed), validation), reference, targets)

    names = [node.name for node in weighted_nodes(model)]
    return search(names, judge, quality(reference, reference, targets), max_drop, min_agreement, evaluations)


def search(names: Sequence[str], judge: Judge, reference: Quality, max_drop: float, min_agreement: float, evaluations: int) -> Kept:
    """`find_kept` for any way to judge a set of names."""
    asked: dict[frozenset[str], Quality] = {}

    def judged(keep_float: Collection[str]) -> Quality:
        key = frozenset(keep_float)
        if key not in asked:
            asked[key] = judge(key)
        return asked[key]

    def problem(keep_float: Collection[str]) -> str | None:
        return judged(keep_float).problem(reference, max_drop, min_agreement)

    if problem(()) is None:
        return Kept((), len(names), judged(()), None, len(asked))
    hurts = ordered([Hurt(group, judged(set(names) - set(group))) for group in groups(names, max(evaluations // 2, 1))])
    few, many = 0, len(hurts)  # in float: too few, and enough: with all of them it is the fp32 file
    while many - few > 1 and len(asked) < evaluations:
        middle = (few + many) // 2
        few, many = (few, middle) if problem(names_of(hurts[:middle])) is None else (middle, many)
    if many == len(hurts):  # the last set that was tried is said, with its problem
        last = names_of(hurts[:few])
        return Kept(last, len(names), judged(last), problem(last), len(asked), tuple(hurts))
    kept = hurts[:many]
    for hurt in reversed(kept[:-1]):  # without the last one it was not enough
        fewer = [other for other in kept if other is not hurt]
        if len(asked) < evaluations and problem(names_of(fewer)) is None:
            kept = fewer
    chosen = names_of(kept)
    return Kept(tuple(name for name in names if name in chosen), len(names), judged(chosen), None, len(asked), tuple(hurts))


def groups(names: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Neighbours together, in at most so many groups of nearly equal size."""
    return [tuple(map(str, part)) for part in np.array_split(np.array(names, dtype=object), min(most, len(names)))]


def ordered(hurts: Sequence[Hurt]) -> list[Hurt]:
    """From the one that hurts most."""
    return sorted(hurts, key=lambda hurt: (hurt.quality.agreement, -hurt.quality.kl))


def names_of(hurts: Sequence[Hurt]) -> tuple[str, ...]:
    return tuple(name for hurt in hurts for name in hurt.nodes)
