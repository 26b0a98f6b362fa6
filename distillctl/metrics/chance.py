"""Whether an accuracy says more than guessing would."""

from __future__ import annotations


def is_near_chance(accuracy: float, classes: int, n: int) -> bool:
    """Whether `n` samples of `classes` evenly spread ones may be answered so by guessing, or by hardly more.

    Two standard errors of guessing; at least what is left of few classes: twice the chance of 2 would be all there is.
    """
    chance = 1 / classes
    return accuracy < chance + max(2 * (chance * (1 - chance) / n) ** 0.5, min(chance, 0.1 * (1 - chance)))
