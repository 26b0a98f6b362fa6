"""Tokens and votes become probabilities as the formulas say, and what no endpoint should answer is a try that failed."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.errors import ConfigError
from distillctl.teachers.api.failures import Failed, message_of, said_by
from distillctl.teachers.api.replies import LONGEST_TEXT, answer_of
from distillctl.teachers.api.scores import of_tokens, of_votes
from distillctl.teachers.api.secret import Secret
from distillctl.teachers.api.tokens import Usage, at_most, likely
from distillctl.teachers.api.words import LabelWords

WORDS = LabelWords.of(["positive", "negative", "neutral"], {})


def top(**masses: float) -> list[tuple[str, float]]:
    return [(token, math.log(mass)) for token, mass in masses.items()]


# ------------------------------------------------------------------------------------------------ label words
@pytest.mark.parametrize(
    ("token", "place"),
    [
        ("positive", 0),
        ("pos", 0),
        (" Pos", 0),
        ("POS", 0),
        ("\u0120pos", 0),
        ("\u2581Positive", 0),
        ("positive\n", 0),
        ("positively", None),
        ("ne", None),  # of two classes
        ("neg", 1),
        ("neu", 2),
        ("", None),
        (" ", None),
        ("The", None),
    ],
)
def test_a_token_speaks_of_the_class_whose_words_alone_it_begins(token: str, place: int | None):
    assert WORDS.class_of_token(token) == place


def test_exact_words_count_case_and_spaces():
    exact = LabelWords.of(["yes", "no"], {"yes": [" Yes", "yes"]}, exact=True)
    assert [exact.class_of_token(token) for token in (" Yes", " Y", "yes", "Yes", " no", "no")] == [0, 0, 0, None, None, 1]


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ('{"label": "negative"}', 1),
        ('{"label": "Negative."}', 1),
        ('```json\n{"label": "negative"}\n```', 1),
        ('<think>positive? no</think>\n{"label": "negative"}', 1),
        ("neutral", 2),
        (' "Neutral". ', 2),
        ("I would say that it is neutral, on the whole", 2),
        ("positive or negative", None),
        ("positives", None),
        ('{"label": "unknown"}', None),
        ('{"label": 7}', None),
        ('{"label": ', None),
        ("", None),
    ],
)
def test_an_answer_names_one_class_or_none(answer: str, place: int | None):
    assert WORDS.class_of_answer(answer) == place


def test_a_word_inside_a_longer_one_is_not_named():
    words = LabelWords.of(["good", "not good"], {})
    assert words.class_of_answer("it is not good") == 1
    assert words.class_of_answer("it is good") == 0
    assert words.class_of_answer("good, and not good") is None


@pytest.mark.parametrize("answer", ['{"label": 1}', "1", "Class 1"])
def test_classes_may_be_numbers(answer: str):
    assert LabelWords.of(["0", "1"], {}).class_of_answer(answer) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"possitive": ["a"]}, r"verbalizer.possitive: no such class; did you mean positive\?"),
        ({"positive": ["A"], "negative": ["a "]}, "verbalizer.negative: 'a' is a word of positive too"),
        ({"positive": [" "]}, "verbalizer.positive: '' is no word"),
    ],
)
def test_words_that_cannot_be_are_a_line(given: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        LabelWords.of(["positive", "negative"], given)


def test_words_of_which_one_begins_the_other_clash_between_classes_alone():
    assert LabelWords.of(["a", "b"], {"a": ["go", "good"], "b": ["bad"]}).clash() is None
    assert LabelWords.of(["a", "b"], {"a": ["x", "go"], "b": ["GOOD"]}).clash() == ("go", "good")
    assert LabelWords.of(["a", "b", "c"], {"a": ["go"], "b": ["gopher"], "c": ["good"]}).clash() == ("go", "good")


# ------------------------------------------------------------------------------------------------ probabilities
def test_masses_are_summed_and_normalised_over_classes():
    found = of_tokens(top(pos=0.3, Positive=0.1, neg=0.2, ne=0.2, The=0.1), WORDS)
    np.testing.assert_allclose(found.probabilities, [0.4 / 0.6, 0.2 / 0.6, 0], rtol=1e-6)
    assert found.matched == pytest.approx(0.6)
    assert found.probabilities.dtype == np.float32


def test_tokens_that_speak_of_no_class_are_no_distribution():
    found = of_tokens(top(The=0.9, ne=0.1), WORDS)
    assert (found.probabilities, found.matched) == (None, 0.0)
    assert of_tokens([("pos", -9999.0)], WORDS).probabilities is None


def test_votes_by_hand():
    found = of_votes([0, 0, 1, None], 4, smoothing=2)
    np.testing.assert_allclose(found.probabilities, [2.5 / 5, 1.5 / 5, 0.5 / 5, 0.5 / 5], rtol=1e-6)
    assert found.matched == 0.75
    assert of_votes([0, 0], 2, smoothing=0).probabilities.tolist() == [1, 0]
    assert of_votes([None], 2, smoothing=1).probabilities is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.floats(0, 10))
def test_votes_are_a_distribution_that_keeps_their_order(votes: list[int], smoothing: float):
    found = of_votes(votes, 5, smoothing).probabilities
    assert found.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount(votes, minlength=5)
    assert all(found[one] >= found[other] for one in range(5) for other in range(5) if counts[one] >= counts[other])


# ------------------------------------------------------------------------------------------------ what comes back
def reply(**choice: object) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [3]}',
        b'{"choices": {"a": 1}}',
        b'{"choices": [{"message": {"content": "pos"}}], "x": NaN}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"error": {"message": "overloaded"}, "choices": [{}]}',
    ],
    ids=range(11),
)
def test_what_is_no_answer_is_a_try_that_failed(content: bytes):
    with pytest.raises(Failed) as failure:
        answer_of(content, 1)
    assert failure.value.maybe_paid


@pytest.mark.parametrize(
    "logprobs",
    [
        3,
        [],
        {"content": []},
        {"content": [3]},
        {"content": [{}]},
        {"content": [{"token": "a", "logprob": -1}]},
        {"content": [{"top_logprobs": [3, {"token": 4, "logprob": -1}, {"token": "a", "logprob": "x"}, {"token": "b"}]}]},
        {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": []},
        {"top_logprobs": [None]},
    ],
    ids=range(9),
)
def test_log_probabilities_that_are_none_are_not_there(logprobs: object):
    assert answer_of(reply(message={"content": "pos"}, logprobs=logprobs), 1).choices[0].top is None


def test_the_drawn_token_counts_where_it_is_not_among_the_likeliest():
    found = {"content": [{"token": "neg", "logprob": -5, "top_logprobs": [{"token": "pos", "logprob": -0.1}]}]}
    assert answer_of(reply(logprobs=found), 1).choices[0].top == (("neg", -5.0), ("pos", -0.1))


def test_an_answer_is_held_within_limits():
    content = {"choices": [{"message": {"content": "x" * 10**6}}] * 5, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    found = answer_of(json.dumps(content).encode(), 2)
    assert [len(choice.text) for choice in found.choices] == [LONGEST_TEXT] * 2
    assert found.usage == Usage(3, 4)


@pytest.mark.parametrize(
    "usage",
    [None, 3, {}, {"prompt_tokens": 3}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": 1e9, "completion_tokens": True}],
)
def test_usage_that_is_none_is_not_there(usage: object):
    assert answer_of(json.dumps({"choices": [{"text": "a"}], "usage": usage}).encode(), 1).usage is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"error": {"message": "no", "code": "model_not_found"}}', "no (model_not_found)"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"object": "error", "message": "no"}', "no"),
        (b"plain\nwords", "plain words"),
        (b"\xff", "\ufffd"),
        (b"x" * 1000, "x" * 300 + " ..."),
    ],
)
def test_what_a_server_says_is_a_line(content: bytes, said: str):
    assert said_by(content, Secret()) == said


def test_an_error_that_is_a_list_is_told_too():
    assert message_of([{"a": 1}]) == "[{'a': 1}]"


# ------------------------------------------------------------------------------------------------ tokens
def test_tokens_of_a_prompt_are_estimated_from_both_sides():
    text = "A film that is good from its first minute to its last. " * 20
    assert at_most(len(text.encode())) > likely(len(text.encode())) > 200
    assert likely(0) == 1
