"""What a labelling would take in calls, tokens and money, without asking anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from distillctl.teachers.api.book import Book
from distillctl.teachers.api.endpoint import Endpoint
from distillctl.teachers.api.labelling import Teacher
from distillctl.teachers.api.ledger import look
from distillctl.teachers.api.money import NOTHING
from distillctl.teachers.api.outcome import Question
from distillctl.teachers.api.requests import LOGPROBS, VOTES, Dialect, encoded, request, settings_key, voting
from distillctl.teachers.api.tokens import BYTES_A_TOKEN, HOW, Usage, likely
from distillctl.teachers.api.words import LabelWords

VOTE_TOKENS = 12  # of {"label": "..."}
ENOUGH_BYTES = 20_000  # of prompts whose tokens an endpoint has counted


@dataclass(frozen=True)
class Estimate:
    """Of one way to ask. kept: prompts that the ledger answers. usage: as is likely; most: as it is at most, what a budget is held by, without
    tries that fail. money is None without prices. how: what the tokens were estimated by."""

    way: str
    prompts: int
    kept: int
    calls: int
    usage: Usage
    most: Usage
    money: Decimal | None
    most_money: Decimal | None
    ledger_money: Decimal | None
    how: str


def estimates(questions: Sequence[Question], classes: Sequence[str], teacher: Teacher) -> list[Estimate]:
    """One for the way that will be taken; with `auto`, where the ledger does not know yet what the endpoint gives, one for each. Raises as `label`."""
    settings = teacher.settings
    words = LabelWords.of(classes, settings.verbalizer, settings.exact_words)
    base = Endpoint.of(settings.url or "").name
    book = look(teacher.ledger)
    known = book.dialects.get(settings_key(settings, base, words))
    ways = {LOGPROBS: [Dialect(LOGPROBS)], VOTES: [voting(settings.endpoint)]}
    dialects = [known] if known else ways.get(settings.ask, [*ways[LOGPROBS], *ways[VOTES]])
    prompts = list(dict.fromkeys(question.prompt for question in questions))
    return [estimate(prompts, teacher, words, base, book, dialect) for dialect in dialects]


def estimate(prompts: Sequence[str], teacher: Teacher, words: LabelWords, base: str, book: Book, dialect: Dialect) -> Estimate:
    settings, price = teacher.settings, teacher.price
    measured = book.counted_bytes >= ENOUGH_BYTES and book.counted_tokens > 0
    bytes_a_token = book.counted_bytes / book.counted_tokens if measured else BYTES_A_TOKEN
    kept, calls, usage, most = 0, 0, Usage(), Usage()
    for prompt in prompts:
        lacking, number = lacking_of(prompt, teacher, words, base, book, dialect)
        if not lacking:
            kept += 1
            continue
        once = request(dialect, settings, base, prompt, words, n=lacking if dialect.several else 1, number=number)
        times = 1 if dialect.several else lacking
        answer = 1 if dialect.way == LOGPROBS else min(settings.answer_tokens, VOTE_TOKENS)
        size = once.size_bytes if measured else len(encoded(once.body))  # what was measured counts what is around a prompt
        calls += times
        usage += Usage(likely(size, bytes_a_token) * times, answer * lacking)
        most += Usage(once.most.prompt * times, once.most.answer * times)
    how = f"{bytes_a_token:.2f} bytes of a prompt a token, as the endpoint has counted" if measured else HOW
    money, most_money, spent = (None, None, None) if price is None else (price.of(usage), price.of(most), NOTHING)
    if price is not None:
        spent = book.spent(lambda model: price if model == settings.model else None)
    return Estimate(dialect.way, len(prompts), kept, calls, usage, most, money, most_money, spent, how)


def lacking_of(prompt: str, teacher: Teacher, words: LabelWords, base: str, book: Book, dialect: Dialect) -> tuple[int, int]:
    """Answers that a prompt still needs, and the number of its next request."""
    wanted, number = (1 if dialect.way == LOGPROBS else teacher.settings.votes), 0
    while wanted > 0:
        found = book.answers.get(request(dialect, teacher.settings, base, prompt, words, number=number).key)
        if found is None:
            break
        named = [words.class_of_answer(choice.text) is not None for choice in found.choices]
        wanted -= 1 if dialect.way == LOGPROBS else sum(named)
        number += 1
    return max(0, wanted), number
