"""No minute has more requests or tokens than it may, whatever the order in which they come; no real time passes here."""

import asyncio
import math
from decimal import Decimal

import pytest
from endpoints import Asking, HastyClock
from hypothesis import given
from hypothesis import strategies as st

from distillctl.errors import ConfigError
from distillctl.teachers.api.crew import Crew, Halted
from distillctl.teachers.api.money import Overdrawn, Price, Purse, prices_of, spelled
from distillctl.teachers.api.pace import WINDOW_S, Admission, Pace, delay_s
from distillctl.teachers.api.retries import FIRST_S, LONGEST_S, backoff_s, retry_after_s
from distillctl.teachers.api.tokens import Usage


def admitted(tokens: list[int], **limits: int) -> list[Admission]:
    """Requests of so many tokens that all want to be sent at once."""

    async def everybody() -> list[Admission]:
        pace = Pace(HastyClock(), **limits)
        return list(await asyncio.gather(*(pace.admit(count) for count in tokens)))

    return asyncio.run(everybody())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 7), st.integers(40, 120))
def test_every_window_of_a_minute_holds_both_limits(tokens: list[int], requests: int, limit: int):
    found = admitted(tokens, requests_per_minute=requests, tokens_per_minute=limit)
    times = [each.time_s for each in found]
    assert times == sorted(times)
    for start in times:
        window = [each for each in found if start <= each.time_s < start + WINDOW_S - 1e-6]
        assert len(window) <= requests
        assert sum(each.tokens for each in window) <= limit


def test_nobody_waits_longer_than_needed():
    times = [each.time_s - 1000 for each in admitted([1] * 5, requests_per_minute=2)]
    assert times == [0, 0, 60, 60, 120]
    times = [each.time_s - 1000 for each in admitted([50, 40, 10, 10, 91], tokens_per_minute=100)]
    assert times == [0, 0, 0, 60, 60 + 60]


def test_the_wait_by_hand():
    before = [Admission(0, 30), Admission(10, 30), Admission(20, 30)]
    assert delay_s(before, 25, 5, None, None) == 0
    assert delay_s(before, 25, 5, 3, None) == 35  # until the first is a minute old
    assert delay_s(before, 25, 5, 2, None) == 45
    assert delay_s(before, 25, 10, None, 100) == 0
    assert delay_s(before, 25, 50, None, 100) == 45  # two have to go: 30 + 50 fit


def test_without_limits_nobody_waits():
    assert {each.time_s for each in admitted([10**9] * 50)} == {1000.0}


def test_a_request_that_no_minute_has_room_for_is_a_line():
    with pytest.raises(ConfigError, match="teacher.tokens_per_minute=10: one request may take 11 tokens"):
        admitted([11], tokens_per_minute=10)


def test_a_hold_is_for_everybody():
    async def held() -> list[float]:
        clock = HastyClock()
        pace = Pace(clock)
        await pace.admit(1)
        pace.hold(25)
        pace.hold(5)
        return [(await pace.admit(1)).time_s for _ in range(2)]

    assert asyncio.run(held()) == [1025, 1025]


def test_a_labelling_keeps_to_the_limits(asking: Asking):
    asking(*(f"text {place}" for place in range(7)), ask="logprobs", requests_per_minute=3, concurrency=4)
    assert sum(asking.clock.slept) == pytest.approx(120)
    assert len(asking.server.bodies) == 7


def test_what_a_request_really_took_makes_room_again(asking: Asking):
    """Each may take some 600 tokens and takes 17: limited by what they may take, two would go at once in each minute."""
    asking(*(f"text {place}" for place in range(7)), ask="logprobs", tokens_per_minute=900, concurrency=1)
    assert asking.clock.slept == []


# ------------------------------------------------------------------------------------------------ waits between tries
def test_backoff_doubles_to_a_limit_and_is_drawn_from_its_upper_half():
    for attempt in range(1, 40):
        full = min(LONGEST_S, FIRST_S * 2 ** (attempt - 1))
        waits = [backoff_s(attempt, 0, row) for row in range(50)]
        assert all(full / 2 <= wait < full for wait in waits)
        assert len(set(waits)) == 50
    assert backoff_s(3, 1, 2) == backoff_s(3, 1, 2) != backoff_s(3, 2, 2)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("1.5", 1.5),
        ("-3", 0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("1e999", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:12:00 GMT", 0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60),
        ("Tue Nov 14 22:14:20 2023", 60),
        ("Tue, 14 Nov 2023 23:14:20 +0100", 60),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None):
    assert retry_after_s(header, wall=1_700_000_000) == seconds  # 22:13:20


# ------------------------------------------------------------------------------------------------ the purse
def test_a_purse_waits_for_what_others_leave():
    async def told() -> list[str]:
        purse, said = Purse(Decimal(10)), []

        async def second() -> None:
            await purse.reserve(Decimal(7))
            said.append("second")

        await purse.reserve(Decimal(6))
        task = asyncio.create_task(second())
        await asyncio.sleep(0)
        said.append("first is over")
        purse.settle(Decimal(6), Decimal(1))
        await task
        purse.settle(Decimal(7), Decimal(7))
        with pytest.raises(Overdrawn):
            await purse.reserve(Decimal("2.01"))
        assert (purse.spent, purse.reserved, purse.in_flight) == (8, 0, 0)
        return said

    assert asyncio.run(told()) == ["first is over", "second"]


def test_money_is_exact():
    price = prices_of({"m": {"input": 0.1, "output": 0.7}}, "file")["m"]
    assert price == Price(Decimal("0.1"), Decimal("0.7"))
    assert price.of(Usage(3, 1)) * 1_000_000 == 1
    assert sum((price.of(Usage(1, 0)) for _ in range(10)), Decimal(0)) * 1_000_000 == 1


@pytest.mark.parametrize(("money", "text"), [("0", "0.0000"), ("5", "5.0000"), ("0.0000123", "0.000012"), ("0.01", "0.0100")])
def test_money_for_people(money: str, text: str):
    assert spelled(Decimal(money)) == text


# ------------------------------------------------------------------------------------------------ the crew
def test_a_crew_ends_by_the_first_problem_once_what_is_in_flight_is_done():
    async def told() -> list[str]:
        crew, said, gone = Crew(lambda: False), [], asyncio.Event()

        async def work(item: str) -> None:
            if item == "fails":
                await asyncio.sleep(0)
                raise ValueError(item)
            if item == "in flight":
                with crew.in_flight():
                    await gone.wait()
                    said.append("done")
            else:
                try:
                    await asyncio.sleep(math.inf)
                except asyncio.CancelledError:
                    said.append("left")
                    gone.set()
                    raise

        with pytest.raises(ValueError, match="fails"):
            await crew.do(work, ["in flight", "waits", "fails", "never begun"], hands=3)
        with pytest.raises(Halted):
            crew.check()
        return said

    assert asyncio.run(told()) == ["left", "done"]
