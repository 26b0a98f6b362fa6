"""A key is sent where it may be, and shown nowhere."""

import pickle

import pytest

from distillctl import config
from distillctl.config import ApiConfig, TeacherConfig
from distillctl.config.api_rules import check_api, is_local, url_problem
from distillctl.errors import ConfigError
from distillctl.runs.prices import read_prices
from distillctl.teachers.api.endpoint import Endpoint
from distillctl.teachers.api.failures import said_by
from distillctl.teachers.api.secret import Secret

KEY = "sk-0123456789/+="


# ------------------------------------------------------------------------------------------------ the secret
def test_a_key_prints_as_nothing_and_is_not_pickled():
    secret = Secret(KEY)
    assert KEY not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.headers == {"Authorization": f"Bearer {KEY}"}
    assert Secret().headers == {}


@pytest.mark.parametrize(
    "text", [KEY, f"Bearer {KEY}", "?key=sk-0123456789%2F%2B%3D", "authorization: bearer other-secret-9", f'{{"a": "{KEY}"}}']
)
def test_a_text_is_scrubbed_of_it(text: str):
    found = Secret(KEY).scrub(text)
    assert "0123456789" not in found
    assert "secret-9" not in found
    assert "***" in found


def test_a_word_that_is_no_secret_spoils_no_text():
    assert Secret("x").scrub("an example") == "an example"
    assert Secret().scrub("an example") == "an example"


def test_a_variable_that_no_header_can_hold_is_a_line_without_it(monkeypatch):
    monkeypatch.setenv("A_API_KEY", "sk-0123\r\nX-Evil: 1")
    with pytest.raises(ConfigError) as problem:
        Secret.of_environment("A_API_KEY")
    assert "0123" not in str(problem.value)
    assert "A_API_KEY" in str(problem.value)


def test_space_around_a_key_is_not_of_it(monkeypatch):
    monkeypatch.setenv("A_API_KEY", f" {KEY}\n")
    assert Secret.of_environment("A_API_KEY").headers == {"Authorization": f"Bearer {KEY}"}
    monkeypatch.setenv("A_API_KEY", "")
    assert not Secret.of_environment("A_API_KEY").given


# ------------------------------------------------------------------------------------------------ the url
@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://API.example.com/v1/chat/completions", "https://api.example.com/v1"),
        ("https://api.example.com/v1/completions", "https://api.example.com/v1"),
        ("https://api.example.com", "https://api.example.com"),
        ("https://a.example/x?api-version=1", "https://a.example/x?api-version=1"),
    ],
)
def test_the_base_of_an_endpoint(url: str, base: str):
    assert Endpoint.of(url).name == base


def test_a_query_stays_behind_the_path():
    assert (
        Endpoint.of("https://a.example/x?api-version=1").address("/chat/completions")
        == "https://a.example/x/chat/completions?api-version=1"
    )


SECRET_URLS = [
    "https://user:sk-0123@a.example/v1",
    "https://sk-0123@a.example/v1",
    "https://:sk-0123@a.example/v1",
    "https://a.example/v1?key=sk-0123",
    "https://a.example/v1?API_KEY=sk-0123",
    "https://a.example/v1?x=1&access_token=sk-0123",
    "https://a.example/v1?sig=sk-0123",
    "https://a.example/v1#sk-0123",
    "ftp://user:sk-0123@a.example/v1",
    "https://a.example:sk-0123/v1",
    "https://[sk-0123/v1",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_url_that_holds_a_secret_is_refused_without_showing_it(url: str):
    with pytest.raises(ConfigError) as problem:
        Endpoint.of(url)
    assert "sk-0123" not in str(problem.value)
    assert str(problem.value).startswith("teacher.url")


@pytest.mark.parametrize("url", ["", "localhost:8000", "/v1", "ftp://a.example/v1", "https://", "https://a.example/a b"])
def test_what_is_no_url_is_a_line(url: str):
    assert url_problem(url) is not None
    with pytest.raises(ConfigError, match=r"^teacher\.url"):
        Endpoint.of(url)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((name, True) for name in ("localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]")),
        *((name, False) for name in ("localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "0.0.0.0", "[::2]", "example.com")),
    ],
)
def test_a_key_goes_over_http_to_this_machine_alone(host: str, local: bool):
    url = f"http://{host}:8000/v1"
    assert Endpoint.of(url, has_key=False).local == local
    assert Endpoint.of(url, has_key=True, insecure_http=True).local == local
    assert Endpoint.of(url.replace("http:", "https:"), has_key=True).local == local
    if local:
        Endpoint.of(url, has_key=True)
    else:
        with pytest.raises(ConfigError, match="the key would travel unencrypted"):
            Endpoint.of(url, has_key=True)


def test_a_url_of_nothing_is_not_local():
    from urllib.parse import urlsplit

    assert not is_local(urlsplit("http:///v1"))


# ------------------------------------------------------------------------------------------------ the config
GOOD = {"name": "api", "url": "http://localhost:8000/v1", "model": "m"}


def problems(**more: object) -> list[str]:
    return check_api("teacher", TeacherConfig(**(GOOD | more)))


def test_a_url_and_a_model_are_enough():
    assert problems() == []
    assert config.check(TeacherConfig(**GOOD)) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"url": None}, "teacher.url is not set: pass teacher.url=<base of an API"),
        ({"model": None}, "teacher.model is not set: pass teacher.model="),
        ({"url": "a.example"}, "teacher.url=a.example: expected the base of an API"),
        ({"budget": 5.0}, "teacher.budget=5 needs prices: pass teacher.prices="),
        ({"ask": "logprobs", "votes": 3}, "teacher.votes=3 is for teacher.ask=votes"),
        ({"vote_temperature": 0.0}, "teacher.vote_temperature=0 draws the same vote each time: take teacher.votes=1"),
        ({"verbalizer": {"a": "word"}}, "teacher.verbalizer.a=word: expected words, as in teacher.verbalizer.a=[good,great]"),
        ({"verbalizer": {"a": []}}, "teacher.verbalizer.a=[]: expected words"),
        ({"verbalizer": {"a": [" "]}}, "teacher.verbalizer.a=[' ']: expected words"),
    ],
)
def test_what_does_not_go_together_is_a_line(more: dict, said: str):
    (problem,) = problems(**more)
    assert problem.startswith(said)


@pytest.mark.parametrize("name", ["sk-0123456789", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HOME", "A_API_KEY\nB", ""])
def test_no_other_secret_of_the_environment_is_sent_and_a_key_is_not_shown(name: str):
    (problem,) = problems(key_variable=name)
    assert problem.startswith("teacher.key_variable: expected the name of a variable that ends in _API_KEY")
    assert not name or name not in problem


def test_every_key_belongs_to_a_teacher_behind_an_endpoint():
    assert check_api("teacher", TeacherConfig(name="resnet8")) == []
    said = check_api("teacher", TeacherConfig(name="resnet8", url="http://a.example", votes=3))
    assert said == [
        "teacher.url belongs to teacher=api, and teacher=resnet8: leave one of them out",
        "teacher.votes belongs to teacher=api, and teacher=resnet8: leave one of them out",
    ]
    assert check_api("teacher", ApiConfig(url="http://localhost/v1", model="m")) == []


# ------------------------------------------------------------------------------------------------ the file of prices
def test_prices_are_read_of_yaml_and_json(tmp_path):
    (tmp_path / "a.yaml").write_text("gpt-4o-mini: {input: 0.15, output: 0.60}\n'qwen3:4b': {input: 0, output: 0}\n")
    (tmp_path / "a.json").write_text('{"gpt-4o-mini": {"input": 0.15, "output": 0.60}, "qwen3:4b": {"input": 0, "output": 0}}')
    assert read_prices(str(tmp_path / "a.yaml")) == read_prices(str(tmp_path / "a.json"))
    assert str(read_prices(str(tmp_path / "a.yaml"))["gpt-4o-mini"].input) == "0.15"
    assert read_prices(None) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "3",
        "[1]",
        "m: 3",
        "m: {input: 1}",
        "m: {input: 1, output: x}",
        "m: {input: 1, output: true}",
        "m: {input: 1, output: -1}",
        "m: {input: .nan, output: 1}",
        "m: {input: 1, output: .inf}",
        "m: {input: 1, output: 1, more: 1}",
        "m: {input: 1e300, output: 1}",
        "m: !!python/object/apply:os.system [true]",
        "a: &a [1]\nb: *a",
        "{",
        "\x00",
    ],
    ids=range(16),
)
def test_a_file_that_holds_no_prices_is_a_line(content: str, tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as problem:
        read_prices(str(file))
    (line,) = problem.value.problems
    assert line.startswith(f"teacher.prices={file}: ")
    assert "\n" not in line


def test_a_file_that_is_not_there_is_a_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prices(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prices(str(tmp_path))


@pytest.mark.parametrize("spelled", [KEY, "".join(f"\\u{ord(letter):04x}" for letter in KEY)], ids=["plain", "escaped"])
def test_what_a_server_says_is_told_without_the_key(spelled: str):
    said = said_by(f'{{"error": {{"message": "wrong key {spelled}"}}}}'.encode(), Secret(KEY))
    assert said == "wrong key ***"
