"""Texts are labelled by an endpoint, whatever goes wrong on the way, and each answer is that of its own text."""

import asyncio
import json
import threading

import numpy as np
import pytest
from endpoints import (
    CEILING_S,
    KEY,
    KEY_VARIABLE,
    Asking,
    HastyClock,
    Server,
    broken,
    cut,
    dropped,
    echo,
    page,
    questions,
    serving,
    silent,
    status,
)

from distillctl.errors import ConfigError, Interrupted, MachineError
from distillctl.teachers.api.labelling import Teacher, label

POS = [0.8 / 0.9, 0.1 / 0.9]  # of GOOD: both spellings of pos, and what begins no label word left out
NEG = [0.25, 0.75]


def test_the_mass_of_verbalizer_is_the_distribution(asking: Asking):
    found = asking("a good film", "a dull film", ask="logprobs")
    np.testing.assert_allclose(found.probabilities, [POS, NEG], rtol=1e-6)
    assert found.probabilities.dtype == np.float32
    assert [(how.way, how.matched, how.problem) for how in found.hows] == [
        ("logprobs", pytest.approx(0.9), None),
        ("logprobs", pytest.approx(1.0), None),
    ]
    body = asking.server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)


def test_completions_are_asked_with_the_prompt_as_it_is(asking: Asking):
    found = asking("a good film", ask="logprobs", endpoint="completions")
    np.testing.assert_allclose(found.probabilities, [POS], rtol=1e-6)
    assert asking.server.bodies[0]["prompt"] == "a good film"
    assert asking.server.bodies[0]["logprobs"] == 20


def test_the_same_prompt_is_asked_once(asking: Asking):
    found = asking("good", "dull", "good", ask="logprobs")
    assert asking.server.asked == {"good": 1, "dull": 1}
    np.testing.assert_array_equal(found.probabilities[0], found.probabilities[2])


def test_the_order_of_answers_does_not_matter(asking: Asking):
    texts = [f"{'good' if place % 3 else 'dull'} {place}" for place in range(8)]
    gates = {text: threading.Event() for text in texts}
    first = texts[0]  # by which the dialect is found; behind it the last asked is answered first

    def in_reverse(text: str) -> None:
        if text != first:
            following = texts.index(text) + 1
            assert following == len(texts) or gates[texts[following]].wait(CEILING_S)
        gates[text].set()

    asking.server.before_answer = in_reverse
    found = asking(*texts, ask="logprobs", concurrency=8)
    np.testing.assert_allclose(found.probabilities, [POS if "good" in text else NEG for text in texts], rtol=1e-6)
    assert list(found.keys) == [f"row {place}" for place in range(8)]


def test_so_many_are_in_flight_and_no_more(asking: Asking):
    together = threading.Barrier(3)
    asking.server.before_answer = lambda text: None if text == "first" else (together.wait(CEILING_S), None)[1]
    asking("first", *(f"text {place}" for place in range(12)), ask="logprobs", concurrency=3)
    assert asking.server.most_at_once == 3


FAULTS = {
    "429": status(429, Retry_After="7"),
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "504": status(504),
    "broken JSON": broken,
    "a cut stream": cut,
    "a connection that is dropped": dropped,
    "a web page": page,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_fails_once_is_tried_again(fault, asking: Asking):
    asking.server.faults = {"dull": [fault]}
    found = asking("good", "dull", ask="logprobs")
    np.testing.assert_allclose(found.probabilities, [POS, NEG], rtol=1e-6)
    assert asking.server.asked == {"good": 1, "dull": 2}
    assert found.spending.tries_failed == 1


def test_an_answer_that_does_not_come_is_a_try_that_failed(asking: Asking):
    asking.server.faults = {"good": [silent, silent]}
    with pytest.raises(MachineError, match="no answer within teacher.timeout_s=0.2; tried 2 times"):
        asking("good", ask="logprobs", timeout_s=0.2, retries=1)


def test_an_answer_of_another_content_type_counts_by_what_it_holds(asking: Asking):
    def as_text(handler) -> None:
        handler.send(200, {"choices": [{"message": {"content": "neg"}}]}, {"Content-Type": "text/plain"})

    asking.server.faults = {"dull": [as_text]}
    found = asking("dull", ask="votes", votes=1)
    assert found.probabilities[0].argmax() == 1
    assert len(asking.server.bodies) == 1


def test_everybody_waits_as_long_as_the_server_says(asking: Asking):
    asking.server.faults = {"dull": [status(429, Retry_After="37")]}
    asking("good", "dull", ask="logprobs")
    assert sum(asking.clock.slept) == pytest.approx(37)


def test_a_date_to_come_back_at_is_kept_too(asking: Asking):
    # the clock's wall says 2023-11-14 22:13:20
    asking.server.faults = {"dull": [status(503, Retry_After="Tue, 14 Nov 2023 22:14:20 GMT")]}
    asking("good", "dull", ask="logprobs")
    assert sum(asking.clock.slept) == pytest.approx(60)


def test_a_wait_that_is_too_long_ends_with_a_line(asking: Asking):
    asking.server.faults = {"good": [status(429, Retry_After="86400")]}
    with pytest.raises(MachineError, match=r"left alone for 24\.0 h") as problem:
        asking("good")
    assert len(problem.value.problems) == 1


def test_waits_between_tries_are_drawn_and_always_the_same(server: Server, tmp_path):
    slept = []
    for attempt in range(2):
        server.faults = {"good": [status(500)] * 4}
        once = Asking(server, tmp_path / str(attempt))
        once("good", ask="logprobs")
        slept.append(once.clock.slept)
    assert slept[0] == slept[1]
    assert len(slept[0]) == 4
    assert all(0.25 * 2**place <= wait < 0.5 * 2**place for place, wait in enumerate(slept[0]))


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (400, ConfigError, "is refused"),
        (401, MachineError, f"put it into the variable {KEY_VARIABLE}"),
        (403, MachineError, "not open to this key"),
        (404, ConfigError, "nothing there answers for teacher.model=m"),
    ],
)
def test_what_no_try_will_change_ends_at_once(code, kind, said, asking: Asking):
    asking("first", ask="logprobs")
    asking.server.faults = {"second": [status(code, "no such thing")]}
    with pytest.raises(kind) as problem:
        asking("first", "second", ask="logprobs")
    (line,) = problem.value.problems
    assert said in line
    assert "no such thing" in line
    assert "\n" not in line
    assert asking.server.asked == {"first": 1, "second": 1}


def test_no_credit_is_not_waited_for(asking: Asking):
    asking.server.faults = {"good": [lambda handler: handler.send(429, {"error": {"message": "no", "code": "insufficient_quota"}})]}
    with pytest.raises(MachineError, match="no credit left"):
        asking("good")
    assert asking.clock.slept == []


def test_a_redirect_is_not_followed(asking: Asking, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving() as other:
        asking.server.faults = {"good": [status(307, Location=f"{other.url}/chat/completions")]}
        with pytest.raises(ConfigError, match="leads on to http://127.0.0.1.*not followed"):
            asking("good")
        assert other.bodies == []


# ------------------------------------------------------------------------------------------------ giving up
def test_a_text_that_never_goes_well_is_given_up_and_counted(asking: Asking):
    asking.server.faults = {"dull": [status(500)] * 3}
    found = asking("good", "dull", ask="logprobs", retries=2, give_up_share=0.5)
    assert found.answered.tolist() == [True, False]
    assert np.isnan(found.probabilities[1]).all()
    assert found.hows[1].problem == "500 busy; tried 3 times"
    assert asking("good", "dull", ask="logprobs").answered.all()  # another time it may


def test_too_many_that_are_given_up_end_with_a_line(asking: Asking):
    asking.server.faults = {"dull": [status(500)] * 3}
    with pytest.raises(MachineError) as problem:
        asking("good", "dull", ask="logprobs", retries=2, give_up_share=0.4)
    (line,) = problem.value.problems
    assert "1 of 2 texts were given up, the last as: 500 busy; tried 3 times; 1 of 2 texts are labelled" in line
    assert "teacher.give_up_share=0.4" in line


def test_an_endpoint_that_is_gone_is_not_asked_for_every_text(asking: Asking):
    asking("first", ask="logprobs")
    asking.server.faults = {"": [status(500)] * 1000}
    with pytest.raises(MachineError, match="texts were given up"):
        asking("first", *(f"text {place}" for place in range(100)), ask="logprobs", retries=0, give_up_share=1, concurrency=2)
    assert len(asking.server.bodies) <= 1 + 5


def test_nobody_there_is_a_line(tmp_path):
    with serving() as server:
        gone = Asking(server, tmp_path)
    with pytest.raises(MachineError, match="no connection") as problem:
        gone("good", retries=1)
    assert len(problem.value.problems) == 1


def test_answers_that_name_no_class_are_a_line_about_words(asking: Asking):
    with pytest.raises(ConfigError, match=r"no answer names a class; .*verbalizer"):
        asking("good", "dull", classes=["ham", "spam"], ask="logprobs")


# ------------------------------------------------------------------------------------------------ the key
def test_the_key_is_in_one_header_and_nowhere_else(asking: Asking, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    caplog.set_level("DEBUG")
    asking.server.faults = {"good": [echo] * 3, "dull": [echo]}
    asking.server.label = lambda text, number: f"pos, by {KEY}"
    found = asking("dull", ask="votes", votes=1)
    with pytest.raises(MachineError) as problem:
        asking("good", ask="votes", retries=2)
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in asking.server.headers)
    assert "header Bearer ***" in str(problem.value)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"pos, by ***" in file.read_bytes() for file in files)
    assert not [file for file in files if KEY.encode() in file.read_bytes() or KEY[3:].encode() in file.read_bytes()]
    for text in (str(problem.value), repr(problem.value), repr(found), json.dumps(asking.said), caplog.text):
        assert KEY not in text


def test_without_a_key_none_is_sent(asking: Asking, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    asking("good", ask="logprobs")
    assert "Authorization" not in asking.server.headers[0]


# ------------------------------------------------------------------------------------------------ around it
def test_a_stop_lets_what_is_in_flight_end_and_keeps_it(asking: Asking):
    asked = threading.Event()
    asking.server.before_answer = lambda text: asked.set() if text == "text 3" else None
    with pytest.raises(Interrupted, match="the same command goes on"):
        asking("first", *(f"text {place}" for place in range(50)), ask="logprobs", concurrency=1, stop=asked.is_set)
    before = asking.server.asked
    assert before["text 3"] == 1
    asking.server.before_answer = lambda text: None
    asking("first", *(f"text {place}" for place in range(50)), ask="logprobs")
    assert set(asking.server.asked.values()) == {1}


def test_it_works_beside_a_loop_that_runs(asking: Asking):
    async def cell() -> np.ndarray:
        return asking("good", ask="logprobs").probabilities

    np.testing.assert_allclose(asyncio.run(cell()), [POS], rtol=1e-6)


def test_no_texts_are_no_requests(asking: Asking):
    found = asking()
    assert found.probabilities.shape == (0, 2)
    assert asking.server.bodies == []


def test_without_the_library_there_is_a_line_with_the_extra(asking: Asking, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "httpx", None)
    with pytest.raises(MachineError, match=r"pip install 'distillctl\[api\]'"):
        asking("good")


def test_progress_is_told_of_each_text(asking: Asking):
    seen = []
    teacher: Teacher = asking.teacher(ask="logprobs", concurrency=1)
    label(questions("good", "dull", "good"), ["pos", "neg"], teacher, print, seen=lambda *what: seen.append(what[:2]), clock=HastyClock())
    assert seen == [(2, 3), (3, 3)]
