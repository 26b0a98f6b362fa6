"""Whether of two models that answered the same samples one is worse, or had bad luck."""

from __future__ import annotations

import math


def chance_of_no_worse(lost: int, won: int) -> float:
    """How often as many samples are lost, or more, by a model that is no worse: P(X >= lost) of X ~ Binomial(lost + won, 1/2).

    lost: samples that it answers wrongly and the other one rightly; won: the other way round. Where both are right or both wrong nothing is
    told. The one-sided exact test of McNemar 1947. 1 where the two never differ.
    """
    differ = lost + won
    term, total = math.comb(differ, lost), 0
    for place in range(lost, differ + 1):
        total += term
        term = term * (differ - place) // (place + 1)
    return total / 2**differ
