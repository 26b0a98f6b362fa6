"""Label texts by a model behind an endpoint: all of them, or until the budget, a person or too many failures end it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from distillctl.config.api import ApiConfig
from distillctl.errors import ConfigError, Interrupted, MachineError
from distillctl.teachers.api.client import Client, Post
from distillctl.teachers.api.clock import Clock, MachineClock
from distillctl.teachers.api.crew import Crew, Halted
from distillctl.teachers.api.endpoint import Endpoint
from distillctl.teachers.api.exchange import Exchange
from distillctl.teachers.api.failures import GivenUp, Place
from distillctl.teachers.api.ledger import Ledger
from distillctl.teachers.api.money import Overdrawn, Price, Purse, exact, price_of, spelled
from distillctl.teachers.api.outcome import How, Labelled, Question, Spending
from distillctl.teachers.api.pace import Pace
from distillctl.teachers.api.row import Asker, Row
from distillctl.teachers.api.scores import Scores
from distillctl.teachers.api.secret import Secret
from distillctl.teachers.api.words import LabelWords

Result = TypeVar("Result")
Seen = Callable[[int, int, Spending], None]  # rows that are done, rows in all, what was spent


@dataclass(frozen=True)
class Teacher:
    """Whom is asked and how. ledger: its folder. prices: by model, None where nothing is said of money. seed: of the waits between tries."""

    settings: ApiConfig
    ledger: Path
    prices: Mapping[str, Price] | None = None
    seed: int = 0

    @property
    def price(self) -> Price | None:
        """Raises ConfigError for a model without a price, where prices are given, and for a budget without prices."""
        if self.prices is None:
            if self.settings.budget is not None:
                raise ConfigError(
                    f"teacher.budget={self.settings.budget:g} needs prices: pass teacher.prices=<file of prices of a million tokens>"
                )
            return None
        return price_of(str(self.settings.model), self.prices, str(self.settings.prices))


def label(
    questions: Sequence[Question],
    classes: Sequence[str],
    teacher: Teacher,
    say: Callable[[str], None],
    seen: Seen = lambda done, total, spending: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> Labelled:
    """A distribution over classes for each text; what the ledger holds is not asked again.

    say: for what a person should know. seen: told of each row. stop: looked at all the time, a `StopRequest` or the like; once it is true
    nothing more is sent, and what is in flight is waited for and kept. Raises ConfigError (the budget among what it is about), MachineError,
    CheckpointError for a damaged ledger, and Interrupted; all that was paid for until then is kept.
    """
    settings, words = teacher.settings, LabelWords.of(classes, teacher.settings.verbalizer, teacher.settings.exact_words)
    secret = Secret.of_environment(settings.key_variable)
    endpoint = Endpoint.of(settings.url or "", secret.given, settings.insecure_http)
    place = Place(endpoint.name, str(settings.model), secret.given, settings.key_variable)
    price, clock = teacher.price, clock or MachineClock()

    async def labelled() -> Labelled:
        async with Client(endpoint, secret, place, settings.timeout_s, settings.concurrency, clock) as client:
            return await Labelling(questions, words, teacher, ledger, client, clock, secret, endpoint.name, price, say, seen, stop).run()

    with Ledger(teacher.ledger) as ledger:
        return run(labelled())


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """In a loop of its own; beside one that runs already, as in a notebook, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Labelling:
    """One pass over the questions. Those of the same prompt are asked once."""

    def __init__(
        self, questions: Sequence[Question], words: LabelWords, teacher: Teacher, ledger: Ledger, post: Post, clock: Clock, secret: Secret,
        base: str, price: Price | None, say: Callable[[str], None], seen: Seen, stop: Callable[[], bool],
    ):  # fmt: skip
        settings = teacher.settings
        self.questions, self.words, self.settings, self.ledger, self.price = questions, words, settings, ledger, price
        self.say, self.seen, self.stop = say, seen, stop
        self.crew = Crew(stop)
        self.purse = Purse(None if settings.budget is None else exact(settings.budget), ledger.book.spent(self.price_by_name))
        pace = Pace(clock, settings.requests_per_minute, settings.tokens_per_minute)
        self.exchange = Exchange(
            post, ledger, self.purse, pace, self.crew, clock, secret, str(settings.model), price, settings.retries, teacher.seed
        )
        self.asker = Asker(self.exchange, settings, base, words, say)
        self.rows: dict[str, list[int]] = {}
        for row, question in enumerate(questions):
            self.rows.setdefault(question.prompt, []).append(row)
        self.found: dict[str, Row] = {}
        self.given_up = self.done = self.in_a_row = 0

    def price_by_name(self, model: str) -> Price | None:
        return self.price if model == self.settings.model else None

    async def run(self) -> Labelled:
        prompts = list(self.rows)
        try:
            if prompts and self.asker.dialect is None:
                await self.crew.do(self.asker.find_dialect, prompts[:1], hands=1)
            await self.crew.do(self.ask, prompts, hands=min(self.settings.concurrency, max(1, len(prompts))))
        except Overdrawn as problem:
            raise ConfigError(self.overdrawn(problem)) from None
        except GivenUp as problem:  # of the first prompt
            self.end(problem.why)
        except Halted:
            number = getattr(self.stop, "signal_number", None) or signal.SIGTERM
            raise Interrupted(f"stopped: {self.so_far()}; the same command goes on", number) from None
        if self.exchange.beyond is not None:
            self.say(self.exchange.beyond)
        return self.labelled()

    async def ask(self, prompt: str) -> None:
        rows = self.rows[prompt]
        try:
            found = await self.asker.row(self.questions[rows[0]].key, prompt)
            self.in_a_row = 0 if not found[1].kept else self.in_a_row
        except GivenUp as problem:
            found = Scores(None, 0.0), How("", 0, 0.0, False, problem.why)
            self.in_a_row += 1
        self.found[prompt] = found
        self.done += len(rows)
        self.seen(self.done, len(self.questions), self.spending())
        why = found[1].problem
        if why is not None:
            self.given_up += len(rows)
            if self.given_up > self.settings.give_up_share * len(self.questions) or self.in_a_row >= 2 * self.settings.concurrency:
                self.end(why)

    def end(self, why: str) -> NoReturn:
        """Raises MachineError for an endpoint that fails, ConfigError for answers that name no class."""
        share = f"teacher.give_up_share={self.settings.give_up_share:g}"
        if self.in_a_row or not self.given_up:
            raise MachineError(
                f"teacher.url={self.asker.base}: {max(1, self.given_up)} of {len(self.questions):,} texts were given up, the last as: {why}; "
                f"{self.so_far()}; look at the endpoint, and go on by the same command (or allow more, {share})"
            )
        raise ConfigError(
            f"{share}: {self.given_up} of {len(self.questions):,} texts were given up, the last as: {why}; {self.so_far()}; "
            "let the template ask for a class's name alone, give teacher.verbalizer, or take another teacher.ask"
        )

    def overdrawn(self, problem: Overdrawn) -> str:
        return (
            f"teacher.budget={self.settings.budget:g}: the next request could cost {spelled(problem.cost)}; {self.so_far()}; "
            "raise the budget, and the same command goes on"
        )

    def so_far(self) -> str:
        money = "" if self.price is None else f", {spelled(self.purse.spent)} spent in all"
        return f"{self.done - self.given_up:,} of {len(self.questions):,} texts are labelled{money}, kept in {self.ledger.folder}"

    def spending(self) -> Spending:
        exchange, priced = self.exchange, self.price is not None
        return Spending(
            exchange.requests,
            exchange.tries_failed,
            exchange.usage,
            exchange.money if priced else None,
            self.purse.spent if priced else None,
        )

    def labelled(self) -> Labelled:
        probabilities = np.full((len(self.questions), len(self.words.classes)), np.nan, np.float32)
        for prompt, (found, _) in self.found.items():
            if found.probabilities is not None:
                probabilities[self.rows[prompt]] = found.probabilities
        hows = [self.found[question.prompt][1] for question in self.questions]
        return Labelled([question.key for question in self.questions], self.words.classes, probabilities, hows, self.spending())
