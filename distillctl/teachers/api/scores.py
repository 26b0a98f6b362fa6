"""Probabilities of classes, of the log-probabilities of a first token or of votes. K classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillctl.teachers.api.words import LabelWords

Top = Sequence[tuple[str, float]]  # the likeliest first tokens, with the logarithm of their probability


@dataclass(frozen=True)
class Scores:
    """probabilities: float32 [K], of sum 1; None where nothing spoke of a class. matched: the mass, or the share of votes, that did."""

    probabilities: NDArray[np.float32] | None
    matched: float


def of_tokens(top: Top, words: LabelWords) -> Scores:
    """The mass of a class is the sum over the tokens that begin one of its words, normalised over classes.

    So the verbaliser of Schick and Schütze 2021 (PET, section 3.1) with several words a class, where the word is judged by its first
    token. A token that begins words of two classes speaks of neither. What is not among the tokens given counts as zero: at most the mass
    that was not matched.
    """
    masses = np.zeros(len(words.classes), np.float64)
    for token, log_probability in top:
        place = words.class_of_token(token)
        if place is not None:
            masses[place] += math.exp(min(0.0, log_probability))
    matched = float(masses.sum())
    if not matched > 0:
        return Scores(None, 0.0)
    return Scores((masses / matched).astype(np.float32), min(1.0, matched))


def of_votes(votes: Iterable[int | None], classes: int, smoothing: float) -> Scores:
    """(c_k + s / K) / (n + s) of n votes, c_k of them for class k: additive smoothing (Lidstone 1920) by s votes in all.

    s is spread over the classes, and not added to each, so that what a few votes say does not fade with the number of classes: s / K each
    is a Dirichlet prior of total s (s = 1: Perks 1947). Votes after Wang et al. 2023 (self-consistency, section 2), counted and not only
    won. None is a vote without a class.
    """
    counts, asked = np.zeros(classes, np.float64), 0
    for vote in votes:
        asked += 1
        if vote is not None:
            counts[vote] += 1
    valid = counts.sum()
    if not valid:
        return Scores(None, 0.0)
    return Scores(((counts + smoothing / classes) / (valid + smoothing)).astype(np.float32), float(valid / asked))
