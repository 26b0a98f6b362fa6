"""What was paid for is never asked again, and the budget is held to the last digit."""

import asyncio
import json
import os
import time
from decimal import Decimal

import pytest
from endpoints import KEY_VARIABLE, Asking, cut, questions, silent, status, text_of

from distillctl.errors import CheckpointError, ConfigError, MachineError
from distillctl.teachers.api.estimate import estimates
from distillctl.teachers.api.ledger import FILE, Ledger, look
from distillctl.teachers.api.money import Price
from distillctl.teachers.api.requests import encoded
from distillctl.teachers.api.tokens import TEMPLATE_TOKENS, Usage

PRICE = Price(Decimal("150"), Decimal("600"))  # dear, so that a few texts are money
PRICES = {"m": PRICE}
TEXTS = [f"{'good' if place % 2 else 'dull'} text {place:03}" for place in range(40)]


def paid(asking: Asking) -> Decimal:
    """By the server's own count."""
    prompt, answer = asking.server.tokens
    return (PRICE.input * prompt + PRICE.output * answer) / 1_000_000


# ------------------------------------------------------------------------------------------------ the ledger
def test_a_second_labelling_asks_nothing(asking: Asking):
    first = asking(*TEXTS[:5], ask="logprobs")
    again = asking(*TEXTS[:5], ask="logprobs")
    assert len(asking.server.bodies) == 5
    assert (again.probabilities == first.probabilities).all()
    assert [how.kept for how in first.hows] == [True] + [False] * 4  # that by which the dialect was found is there already
    assert all(how.kept for how in again.hows)
    assert again.spending.requests == 0


def test_what_is_kept_needs_no_endpoint(asking: Asking):
    first = asking(*TEXTS[:5])
    asking.server.faults = {"": [status(500)] * 100}
    assert (asking(*TEXTS[:5]).probabilities == first.probabilities).all()


@pytest.mark.parametrize(
    "more",
    [{"model": "other"}, {"vote_temperature": 0.5}, {"answer_tokens": 9}, {"endpoint": "completions"}],
    ids=lambda more: next(iter(more)),
)
def test_other_settings_are_other_answers(more: dict, asking: Asking):
    asking("good", ask="votes", votes=1)
    asking("good", ask="votes", votes=1, **more)
    assert len(asking.server.bodies) == 2


def test_what_does_not_decide_an_answer_asks_nothing_new(asking: Asking):
    asking("good", "dull", ask="votes", votes=2)
    asking("dull", "good", ask="votes", votes=2, smoothing=3, concurrency=1, retries=0, timeout_s=99, give_up_share=1)
    assert len(asking.server.bodies) == 2


def test_more_votes_later_are_asked_for_beside_the_first(asking: Asking):
    asking("good", ask="votes", votes=2)
    found = asking("good", ask="votes", votes=5)
    assert [body["n"] for body in asking.server.bodies] == [2, 3]
    assert found.hows[0].answers == 5
    assert asking("good", ask="votes", votes=1).hows[0].answers == 1
    assert len(asking.server.bodies) == 2


def test_other_verbalizer_judge_the_answers_that_are_there(asking: Asking):
    asking("good", ask="logprobs")
    found = asking("good", ask="logprobs", verbalizer={"pos": ["pos"], "neg": ["neg"]}, exact_words=True)
    assert found.probabilities[0].tolist() == pytest.approx([0.6 / 0.7, 0.1 / 0.7])
    assert len(asking.server.bodies) == 1


def test_a_last_line_that_was_cut_off_never_counted(asking: Asking):
    asking(*TEXTS[:3], ask="logprobs", concurrency=1)
    file = asking.ledger / FILE
    whole = file.read_bytes()
    for size in range(len(whole) - 60, len(whole)):
        file.write_bytes(whole[:size])
        with Ledger(asking.ledger) as ledger:
            assert len(ledger.book.answers) == 2
            assert len(ledger.book.begun) == 1
        assert whole.startswith(file.read_bytes())
        assert file.read_bytes().endswith(b"\n")
    asking(*TEXTS[:3], ask="logprobs", concurrency=1)
    assert asking.server.asked[TEXTS[2]] == 2
    assert len(look(asking.ledger).answers) == 3


def test_a_damaged_line_is_named(asking: Asking):
    asking(*TEXTS[:3], ask="logprobs", concurrency=1)
    file = asking.ledger / FILE
    lines = file.read_bytes().splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if b'"answer"' in line)
    damaged = lines[place].replace(b"0.9", b"0.8", 1) if b"0.9" in lines[place] else lines[place].replace(b"1", b"2", 1)
    file.write_bytes(b"".join([*lines[:place], damaged, *lines[place + 1 :]]))
    with pytest.raises(CheckpointError, match=rf"line {place + 1} is damaged \(its checksum is wrong\); take that line away") as problem:
        asking(*TEXTS[:3])
    assert len(problem.value.problems) == 1
    file.write_bytes(b"".join([*lines[:place], *lines[place + 1 :]]))
    asking(*TEXTS[:3], ask="logprobs")
    assert sum(asking.server.asked.values()) == 4


def test_what_the_book_has_kept_is_what_is_read_again(asking: Asking):
    asking.server.faults = {TEXTS[1]: [cut, status(500)]}
    asking(*TEXTS[:4], prices=PRICES)
    with Ledger(asking.ledger) as ledger:
        asyncio.run(ledger.begin("m", Usage(5, 7), Decimal("0.25")))
        kept = ledger.book
    assert len(kept.begun) == 1
    assert len(kept.answers) == 4
    assert vars(look(asking.ledger)) == vars(kept)


def test_two_at_once_are_told_apart(asking: Asking):
    with Ledger(asking.ledger), pytest.raises(MachineError, match="another process labels by it"):
        asking("good")
    assert asking.server.bodies == []
    asking("good")  # and afterwards it is free


def test_a_disk_that_is_full_ends_before_more_is_asked(asking: Asking, monkeypatch):
    asking("first", ask="logprobs")
    real = os.fsync
    left = [3]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left on device; nothing more is asked"):
        asking(*TEXTS, ask="logprobs", concurrency=1)
    monkeypatch.undo()
    assert sum(asking.server.asked.values()) == 2
    with Ledger(asking.ledger) as ledger:
        assert len(ledger.book.answers) == 2
        assert not ledger.book.begun


def test_a_ledger_of_somebody_else_is_not_believed(asking: Asking):
    asking("good")
    (asking.ledger / FILE).chmod(0o666)
    with pytest.raises(MachineError, match="another user's, or others may change it"):
        asking("good")


# ------------------------------------------------------------------------------------------------ the budget
def most(text: str, asking: Asking) -> Decimal:
    """What the request of a text can cost at most; those of the same length can cost the same."""
    body = next(body for body in asking.server.bodies if len(text_of(body)) == len(text))
    return (PRICE.input * (len(encoded(body)) + TEMPLATE_TOKENS) + PRICE.output) / 1_000_000


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_budget_stops_before_the_request_that_could_exceed_it(concurrency: int, asking: Asking):
    budget = 0.18
    with pytest.raises(ConfigError) as problem:
        asking(*TEXTS, prices=PRICES, ask="logprobs", budget=budget, concurrency=concurrency)
    spent = paid(asking)
    next_one = most(TEXTS[0], asking)
    assert spent <= Decimal(repr(budget)) < spent + next_one
    assert 10 < len(asking.server.bodies) < len(TEXTS)
    (line,) = problem.value.problems
    assert line.startswith(
        f"teacher.budget=0.18: the next request could cost {next_one:.4f}; {len(asking.server.bodies)} of 40 texts are labelled"
    )
    assert f"{spent:.4f} spent in all" in line
    assert line.endswith("raise the budget, and the same command goes on")
    assert look(asking.ledger).spent(PRICES.get) == spent
    found = asking(*TEXTS, prices=PRICES, ask="logprobs", budget=1.0, concurrency=concurrency)
    assert found.answered.all()
    assert set(asking.server.asked.values()) == {1}
    assert found.spending.ledger_money == paid(asking)


def test_a_budget_that_was_spent_before_asks_nothing(asking: Asking):
    asking(*TEXTS[:4], prices=PRICES, ask="logprobs")
    with pytest.raises(ConfigError, match="the next request could cost"):
        asking(*TEXTS, prices=PRICES, ask="logprobs", budget=float(paid(asking)))
    assert len(asking.server.bodies) == 4


def test_what_was_paid_without_a_price_counts_by_todays(asking: Asking):
    asking(*TEXTS[:4], ask="logprobs")
    assert look(asking.ledger).spent(PRICES.get) == paid(asking)


def test_an_answer_that_was_lost_counts_as_what_it_can_have_cost(asking: Asking):
    asking.server.faults = {TEXTS[1]: [cut], TEXTS[2]: [status(500)]}
    found = asking(*TEXTS[:3], prices=PRICES, ask="logprobs")
    assert found.spending.money == paid(asking) + most(TEXTS[1], asking)
    assert found.spending.ledger_money == look(asking.ledger).spent(PRICES.get) == found.spending.money


def test_what_was_in_flight_when_a_process_died_counts_as_what_it_can_have_cost(asking: Asking):
    asking("first", prices=PRICES, ask="logprobs")
    file = asking.ledger / FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(line for line in lines if b'"answer"' not in line))
    assert look(asking.ledger).spent(PRICES.get) == most("first", asking) > paid(asking)


def test_usage_that_is_not_told_counts_as_the_most(asking: Asking):
    asking.server.gives.discard("usage")
    found = asking(TEXTS[0], prices=PRICES, ask="logprobs")
    assert found.spending.money == most(TEXTS[0], asking)


def test_a_count_beyond_what_can_be_is_told(asking: Asking):
    def greedy(handler) -> None:
        handler.send(200, {"choices": [{"message": {"content": "pos"}}], "usage": {"prompt_tokens": 10**6, "completion_tokens": 1}})

    asking.server.faults = {"good": [greedy]}
    found = asking("good", prices=PRICES, ask="votes", votes=1)
    assert found.spending.money == PRICE.input + PRICE.output / 1_000_000
    assert "the endpoint counted 1,000,000 + 1 tokens" in asking.said[0]


def test_requests_in_flight_share_what_is_left(asking: Asking):
    """Of eight hands one alone has money: the others wait until it leaves some, and nobody sends more than there is."""
    first = TEXTS[0].replace("text", "word")
    asking(first, prices=PRICES, ask="logprobs")
    budget = float(paid(asking) + most(first, asking) * Decimal("1.2"))
    asking.server.before_answer = lambda text: time.sleep(0.02)  # time enough for others to be sent beside it, were they let through
    with pytest.raises(ConfigError):
        asking(*TEXTS, prices=PRICES, ask="logprobs", budget=budget, concurrency=8)
    assert asking.server.most_at_once == 1
    assert len(asking.server.bodies) > 2
    assert paid(asking) <= Decimal(repr(budget))


def test_a_budget_without_prices_and_a_model_without_a_price_are_lines(asking: Asking):
    with pytest.raises(ConfigError, match="teacher.budget=1 needs prices"):
        asking("good", budget=1.0)
    with pytest.raises(ConfigError, match=r"no price of teacher.model=m; known: other"):
        asking("good", budget=1.0, prices={"other": PRICE})
    assert asking.server.bodies == []


# ------------------------------------------------------------------------------------------------ the dry run
def test_an_estimate_asks_nothing_and_counts_what_is_kept(asking: Asking):
    asked = questions(*TEXTS, TEXTS[0])
    ways = estimates(asked, ["pos", "neg"], asking.teacher(PRICES))
    assert asking.server.bodies == []
    assert not asking.ledger.exists()
    assert [(way.way, way.prompts, way.calls, way.kept) for way in ways] == [("logprobs", 40, 40, 0), ("votes", 40, 40, 0)]
    assert "bytes of the prompts / 4" in ways[0].how
    asking(*TEXTS[:10])
    (way,) = estimates(asked, ["pos", "neg"], asking.teacher(PRICES))
    assert (way.way, way.calls, way.kept) == ("logprobs", 30, 10)
    assert way.ledger_money == paid(asking)
    before = way
    asking(*TEXTS, prices=PRICES)
    assert before.most_money > paid(asking) - before.ledger_money


def test_an_estimate_is_money_by_the_prices(asking: Asking):
    (way,) = estimates(questions("x" * 400), ["pos", "neg"], asking.teacher(PRICES, ask="votes", votes=3))
    assert way.money == (PRICE.input * way.usage.prompt + PRICE.output * 36) / 1_000_000
    assert way.usage.prompt > 100
    assert way.most.answer == 3 * 64
    (unpriced,) = estimates(questions("x"), ["pos", "neg"], asking.teacher(ask="votes"))
    assert (unpriced.money, unpriced.ledger_money) == (None, None)


def test_votes_that_lack_are_estimated_alone(asking: Asking):
    asking("good", ask="votes", votes=2)
    (way,) = estimates(questions("good"), ["pos", "neg"], asking.teacher(ask="votes", votes=5))
    assert (way.calls, way.usage.answer) == (1, 3 * 12)


# ------------------------------------------------------------------------------------------------ what is written
def test_no_text_and_no_prompt_is_kept(asking: Asking, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-0123456789")
    asking("a text that is nobody's business", ask="logprobs")
    content = (asking.ledger / FILE).read_text()
    assert "business" not in content
    kinds = [json.loads(line)["entry"]["kind"] for line in content.splitlines()]
    assert kinds == ["ledger", "begun", "answer", "dialect"]


def test_a_request_that_timed_out_is_over_and_may_have_been_paid(asking: Asking):
    asking.server.faults = {"good": [silent]}
    with pytest.raises(MachineError):
        asking("good", ask="logprobs", timeout_s=0.2, retries=0, prices=PRICES)
    book = look(asking.ledger)
    assert not book.begun
    assert book.lost.money > 0
