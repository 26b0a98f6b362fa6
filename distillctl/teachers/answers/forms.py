"""Turn answers in the forms that people have them in into logits: probabilities, labels with a confidence, the likeliest classes alone.

R answered samples, C classes that an answer speaks of, K classes of the data set. Logits are logarithms of probabilities, whose softmax at
temperature 1 is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SLACK = 1e-3  # by which probabilities may miss a sum of 1: they were rounded when they were written
LEAST = float(np.finfo(np.float32).tiny)  # for a probability of 0, whose logarithm no loss could subtract: its own is -87.3


def sums_to_one(values: Floats) -> NDArray[np.bool_]:
    """bool [R]: whose values [R, C] are probabilities, >= 0 with a sum of 1 but for SLACK."""
    return (values >= 0).all(1) & (np.abs(values.sum(1, dtype=np.float64) - 1) <= SLACK)


def could_be_probabilities(values: Floats) -> bool:
    """Whether no value is outside [0, 1]: nobody writes logits so, and sums that are not 1 are somebody's mistake."""
    return bool(values.min() >= 0 and values.max() <= 1 + SLACK)


def from_probabilities(values: Floats) -> Floats:
    """log p [R, C]; a probability of 0 counts as LEAST."""
    return np.log(np.maximum(values, LEAST)).astype(np.float32)


def left_over(told: Floats) -> NDArray[np.float64]:
    """[R]: the probability that the classes told leave to the others, of log-probabilities [R, C] that are NaN where nothing is told. Below 0 of too much."""
    return 1 - np.nansum(np.exp(told.astype(np.float64)), axis=1)


def completed(told: Floats, places: Sequence[int], classes: int) -> Floats:
    """Log-probabilities [R, C] of some classes, NaN where nothing is told, as those of all, [R, K]: the others share what is left alike.

    places: where among the K each of the C is. At most K - 1 of the others share; none of them gets less than LEAST.
    """
    whole = np.full((len(told), classes), np.nan, np.float32)
    whole[:, list(places)] = np.maximum(told, np.float32(np.log(LEAST)))  # NaN stays
    silent = np.isnan(whole)
    share = np.maximum(left_over(told), 0) / np.maximum(silent.sum(1), 1)
    return np.where(silent, np.log(np.maximum(share, LEAST))[:, None], whole).astype(np.float32)
