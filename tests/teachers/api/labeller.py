"""A process that labels texts, to be killed: `python labeller.py URL LEDGER CONCURRENCY BUDGET TEXT ...`."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

from distillctl.config import ApiConfig
from distillctl.teachers.api.labelling import Question, Teacher, label
from distillctl.teachers.api.money import Price

PRICES = {"m": Price(Decimal(150), Decimal(600))}


def main(url: str, ledger: str, concurrency: str, budget: str, *texts: str) -> None:
    settings = ApiConfig(
        url=url,
        model="m",
        ask="votes",
        votes=2,
        concurrency=int(concurrency),
        budget=float(budget),
        key_variable="TEST_API_KEY",
        timeout_s=600.0,
    )
    questions = [Question(text, text) for text in texts]
    label(questions, ["pos", "neg"], Teacher(settings, Path(ledger), PRICES), say=lambda text: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
