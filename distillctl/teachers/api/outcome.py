"""What a labelling brings: a distribution over classes for each text, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from distillctl.teachers.api.tokens import Usage


@dataclass(frozen=True)
class Question:
    """key: what the text is called, as in `reviews.csv:17`. prompt: the filled template."""

    key: str
    prompt: str


@dataclass(frozen=True)
class How:
    """way: logprobs or votes. answers: those that count. matched: the mass of first tokens, or the share of votes, that spoke of a class;
    the rest was left out and the others normalised. kept: from the ledger, without a request. problem: why the text was given up."""

    way: str
    answers: int
    matched: float
    kept: bool
    problem: str | None = None


@dataclass(frozen=True)
class Spending:
    """requests: sent in this process, those that failed included. usage, money: what they took; ledger_money: all that the ledger has ever
    come to, this included. money is None without a price."""

    requests: int
    tries_failed: int
    usage: Usage
    money: Decimal | None
    ledger_money: Decimal | None


@dataclass(frozen=True)
class Labelled:
    """probabilities: float32 [N, K], in the order of the questions, not a number where one was given up. hows: [N]."""

    keys: Sequence[str]
    classes: Sequence[str]
    probabilities: NDArray[np.float32]
    hows: Sequence[How]
    spending: Spending

    @property
    def answered(self) -> NDArray[np.bool_]:
        """[N]"""
        return np.array([how.problem is None for how in self.hows], np.bool_)
