"""Ask one prompt for a distribution, in a dialect that is known, or find out which one the endpoint understands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from distillctl.config.api import ApiConfig
from distillctl.errors import ConfigError
from distillctl.teachers.api import scores
from distillctl.teachers.api.exchange import Exchange
from distillctl.teachers.api.failures import GivenUp, Refused
from distillctl.teachers.api.outcome import How
from distillctl.teachers.api.replies import Answer
from distillctl.teachers.api.requests import LOGPROBS, VOTES, Dialect, Request, first_dialect, request, settings_key, simpler, voting
from distillctl.teachers.api.scores import Scores
from distillctl.teachers.api.words import LabelWords

LEAST_MATCHED = 0.5  # of the first prompt's mass: below it what a model means is not in its first token
Row = tuple[Scores, How]


class Asker:
    """base: the endpoint's name. say: for what a person should know, once."""

    def __init__(self, exchange: Exchange, settings: ApiConfig, base: str, words: LabelWords, say: Callable[[str], None]):
        self.exchange, self.settings, self.base, self.words, self.say = exchange, settings, base, words, say
        self.key = settings_key(settings, base, words)
        self.dialect: Dialect | None = exchange.ledger.book.dialects.get(self.key)

    def request(self, dialect: Dialect, prompt: str, n: int = 1, number: int = 0) -> Request:
        return request(dialect, self.settings, self.base, prompt, self.words, n, number)

    async def find_dialect(self, prompt: str) -> None:
        """By the first prompt, whose answer counts like any other. Raises ConfigError where the endpoint takes none, and what `ask` raises."""
        dialect, ask = self.first(), self.settings.ask
        while self.dialect is None:
            asked = self.request(dialect, prompt, self.votes_at_once(dialect, 0))
            try:
                answer = await self.exchange.ask(asked)
            except Refused as refusal:
                following = simpler(dialect, refusal.said, ask, self.settings.endpoint)
                if following is None:
                    raise ConfigError(self.refused(refusal, "the first text", dialect)) from None
                dialect = following
                continue
            lacking = self.lacking(answer) if dialect.way == LOGPROBS else None
            if lacking is None:
                await self.settle(replace(dialect, several=dialect.several and len(answer.choices) == asked.n))
            elif ask == LOGPROBS:
                raise ConfigError(f"teacher.ask=logprobs: {lacking}; take teacher.ask=votes")
            else:
                self.say(f"teacher.ask=auto: {lacking}; asking for votes")
                dialect = voting(self.settings.endpoint, dialect.limit)

    def first(self) -> Dialect:
        """Raises ConfigError for label words that a first token cannot tell apart, where nothing else is asked for."""
        clash, ask = self.words.clash(), self.settings.ask
        if clash is None or ask == VOTES:
            return first_dialect(ask, self.settings.endpoint)
        lacking = f"the label word {clash[0]!r} begins {clash[1]!r} of another class, and a first token cannot tell them apart"
        if ask == LOGPROBS:
            raise ConfigError(f"teacher.ask=logprobs: {lacking}; give teacher.verbalizer that begin differently, as A, B, C")
        self.say(f"teacher.ask=auto: {lacking}; asking for votes")
        return first_dialect(VOTES, self.settings.endpoint)

    def lacking(self, answer: Answer) -> str | None:
        """Why the first token's log-probabilities of an answer make no distribution."""
        top = answer.choices[0].top
        if top is None:
            return "the endpoint gives no log-probabilities"
        matched = scores.of_tokens(top, self.words).matched
        if matched < LEAST_MATCHED and self.settings.ask != LOGPROBS:
            return f"{matched:.0%} of the first token's mass begins a label word (is it a model that reasons first?)"
        return None

    async def settle(self, dialect: Dialect) -> None:
        self.dialect = dialect
        await self.exchange.ledger.understood(self.key, dialect)

    def refused(self, refusal: Refused, name: str, dialect: Dialect) -> str:
        way = "teacher.ask=votes" if self.settings.ask == LOGPROBS else "look at teacher.model and at the length of the texts"
        return f"teacher.url={self.base}: {name} is refused as {dialect.way} ({refusal.status} {refusal.said}); {way}"

    async def row(self, name: str, prompt: str) -> Row:
        """name: what the text is called. Raises ConfigError for what the endpoint refuses, and what `ask` raises."""
        assert self.dialect is not None
        try:
            return await (self.by_tokens(prompt) if self.dialect.way == LOGPROBS else self.by_votes(prompt))
        except Refused as refusal:
            raise ConfigError(self.refused(refusal, name, self.dialect)) from None

    async def by_tokens(self, prompt: str) -> Row:
        assert self.dialect is not None
        asked = self.request(self.dialect, prompt)
        kept = self.is_kept(asked)
        answer = await self.exchange.ask(asked)
        found = scores.of_tokens(answer.choices[0].top or (), self.words)
        return found, How(LOGPROBS, 1, found.matched, kept, problem_of(found))

    async def by_votes(self, prompt: str) -> Row:
        """Votes are drawn until as many name a class as are asked for; `retries` further requests may go without one.

        Those of the ledger come first, in the order in which they were drawn: more votes later are asked for beside them.
        """
        votes: list[int | None] = []
        wanted, valid, fruitless, number, all_kept = self.settings.votes, 0, 0, 0, True
        while valid < wanted and fruitless <= self.settings.retries:
            assert self.dialect is not None
            asked = self.request(self.dialect, prompt, self.votes_at_once(self.dialect, valid), number)
            kept = self.is_kept(asked)
            try:
                answer = await self.exchange.ask(asked)
            except GivenUp:
                if valid == 0:
                    raise
                break
            if not kept and len(answer.choices) < asked.n and self.dialect.several:
                await self.settle(replace(self.dialect, several=False))  # it takes `n`, and does not heed it
            drawn = [self.words.class_of_answer(choice.text) for choice in answer.choices]
            for vote in drawn:
                if valid < wanted:
                    votes.append(vote)
                    valid += vote is not None
            fruitless += all(vote is None for vote in drawn)
            number, all_kept = number + 1, all_kept and kept
        found = scores.of_votes(votes, len(self.words.classes), self.settings.smoothing)
        return found, How(VOTES, valid, found.matched, all_kept, problem_of(found))

    def is_kept(self, asked: Request) -> bool:
        return asked.key in self.exchange.ledger.book.answers

    def votes_at_once(self, dialect: Dialect, valid: int) -> int:
        return self.settings.votes - valid if dialect.way == VOTES and dialect.several else 1


def problem_of(found: Scores) -> str | None:
    return None if found.probabilities is not None else "no answer names a class"
