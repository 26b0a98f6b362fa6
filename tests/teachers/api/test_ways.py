"""How an endpoint is asked follows from what it understands, and what it was found to understand is remembered."""

import numpy as np
import pytest
from endpoints import Asking, status

from distillctl.errors import ConfigError


def forms(asking: Asking) -> list[str]:
    """How each request asked: logprobs, or the form of a vote."""
    return ["logprobs" if body.get("logprobs") else body.get("response_format", {}).get("type", "text") for body in asking.server.bodies]


# ------------------------------------------------------------------------------------------------ auto
def test_auto_takes_log_probabilities_where_there_are_some(asking: Asking):
    found = asking("good", "dull")
    assert [how.way for how in found.hows] == ["logprobs", "logprobs"]
    assert forms(asking) == ["logprobs", "logprobs"]


@pytest.mark.parametrize("gives", [set(), {"refuses logprobs"}], ids=["silently without", "refused"])
def test_auto_asks_for_votes_where_there_are_none(gives: set[str], asking: Asking):
    asking.server.gives = {"json_schema", "n", *gives}
    found = asking("good", "dull", votes=3)
    assert [how.way for how in found.hows] == ["votes", "votes"]
    assert forms(asking) == ["logprobs", "json_schema", "json_schema"]  # logprobs of the first text alone
    assert asking.said == ([] if gives else ["teacher.ask=auto: the endpoint gives no log-probabilities; asking for votes"])


def test_auto_asks_a_model_that_reasons_for_votes(asking: Asking):
    found = asking("dull", classes=["neg", "other"])
    assert found.hows[0].way == "logprobs"  # 0.75 of the mass is enough
    found = asking("a good film", classes=["neg", "other"])
    assert found.hows[0].way == "logprobs"  # what the first text said counts for all
    fresh = Asking(asking.server, asking.ledger.parent / "other")
    asking.server.label = lambda text, number: "other"
    found = fresh("a good film", classes=["neg", "other"])
    assert found.hows[0].way == "votes"
    assert fresh.said == [
        "teacher.ask=auto: 10% of the first token's mass begins a label word (is it a model that reasons first?); asking for votes"
    ]


def test_words_that_a_token_cannot_tell_apart_are_voted_on(asking: Asking):
    asking.server.label = lambda text, number: "10"
    found = asking("good", classes=["1", "10"])
    assert found.hows[0].way == "votes"
    assert "'1' begins '10' of another class" in asking.said[0]
    with pytest.raises(ConfigError, match="begins '10' of another class"):
        asking("good", classes=["1", "10"], ask="logprobs")


def test_logprobs_that_are_not_there_are_a_line(asking: Asking):
    asking.server.gives = set()
    with pytest.raises(ConfigError, match=r"^teacher.ask=logprobs: the endpoint gives no log-probabilities; take teacher.ask=votes$"):
        asking("good", ask="logprobs")
    asking.server.gives = {"refuses logprobs"}
    with pytest.raises(ConfigError, match=r"is refused as logprobs \(400 unknown argument\); teacher.ask=votes"):
        asking("dull", ask="logprobs")


# ------------------------------------------------------------------------------------------------ votes
def test_votes_are_a_smoothed_distribution(asking: Asking):
    asking.server.label = lambda text, number: "neg" if number == 2 else "pos"
    found = asking("good", ask="votes", votes=5, smoothing=0.5)
    np.testing.assert_allclose(found.probabilities, [[4.25 / 5.5, 1.25 / 5.5]], rtol=1e-6)
    (body,) = asking.server.bodies
    assert (body["n"], body["temperature"]) == (5, 1.0)
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["pos", "neg"]


@pytest.mark.parametrize(
    ("gives", "tried"),
    [
        ({"json_schema", "n"}, ["json_schema"]),
        ({"json_object", "n"}, ["json_schema", "json_object"]),
        ({"n"}, ["json_schema", "json_object", "text"]),
    ],
)
def test_a_schema_that_is_refused_is_told_in_words(gives: set[str], tried: list[str], asking: Asking):
    asking.server.gives = gives
    asking.server.label = lambda text, number: "I would say: pos."
    found = asking("good", "dull", ask="votes", votes=2)
    assert found.probabilities.argmax(1).tolist() == [0, 0]
    assert forms(asking) == [*tried, tried[-1]]


def test_an_endpoint_of_one_answer_a_request_is_asked_again(asking: Asking):
    asking.server.gives = {"json_schema"}  # `n` is refused
    found = asking("good", "dull", ask="votes", votes=3)
    assert [body.get("n", 1) for body in asking.server.bodies] == [3] + [1] * 6
    assert [how.answers for how in found.hows] == [3, 3]


def test_an_endpoint_that_does_not_heed_n_is_asked_again(asking: Asking):
    asking.server.gives = {"json_schema", "ignores n"}
    found = asking("good", "dull", ask="votes", votes=3, concurrency=1)
    assert [body.get("n", 1) for body in asking.server.bodies] == [3, 1, 1, 1, 1, 1]
    assert [how.answers for how in found.hows] == [3, 3]


def test_a_model_that_calls_its_limit_otherwise_is_asked_so(asking: Asking):
    asking.server.faults = {"good": [status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")]}
    asking("good", ask="votes", votes=1)
    assert ["max_completion_tokens" in body for body in asking.server.bodies] == [False, True]


def test_a_vote_for_no_class_is_drawn_again(asking: Asking):
    asking.server.label = lambda text, number: "who knows" if number in (0, 2) else "neg"
    found = asking("good", ask="votes", votes=3)
    np.testing.assert_allclose(found.probabilities, [[0.25 / 3.5, 3.25 / 3.5]], rtol=1e-6)
    assert found.hows[0].answers == 3
    assert found.hows[0].matched == pytest.approx(3 / 5)


def test_a_model_that_never_names_a_class_is_asked_so_often(asking: Asking):
    asking.server.label = lambda text, number: "who knows"
    with pytest.raises(ConfigError, match="no answer names a class"):
        asking("good", ask="votes", votes=1, retries=3)
    assert len(asking.server.bodies) == 4


def test_votes_of_completions_end_at_the_line(asking: Asking):
    found = asking("good", ask="votes", votes=2, endpoint="completions")
    assert found.probabilities.argmax(1).tolist() == [0]
    assert asking.server.bodies[0]["stop"] == ["\n"]
    assert "response_format" not in asking.server.bodies[0]


# ------------------------------------------------------------------------------------------------ what is remembered
def test_what_an_endpoint_understands_is_found_out_once(asking: Asking):
    asking.server.gives = {"n"}
    asking("good", votes=2)
    assert forms(asking) == ["logprobs", "json_schema", "json_object", "text"]
    asking("good", "dull", votes=2)
    assert forms(asking)[4:] == ["text"]


def test_a_refusal_that_nothing_simpler_helps_is_a_line(asking: Asking):
    asking.server.faults = {"good": [status(400, "the text is too long")] * 20}
    with pytest.raises(ConfigError) as problem:
        asking("good")
    (line,) = problem.value.problems
    assert "the first text is refused as votes (400 the text is too long)" in line
    assert forms(asking) == ["logprobs", "json_schema", "json_object", "text", "text"]
