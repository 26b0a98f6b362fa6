"""A run whose teacher is a model behind an endpoint: it labels the training texts first, and a student learns from what it said."""

import csv
import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch
from commands import call
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "teachers" / "api"))
from endpoints import KEY, Server, serving, status

from distillctl.config import ModelConfig
from distillctl.inputs import from_record
from distillctl.models.obtain import obtain
from distillctl.models.shipping import read_record

FAST = (
    *(
        "dataset.root=texts.csv",
        "student=bag",
        "trainer.threads=1",
        "trainer.device=cpu",
        "trainer.precision=fp32",
        "trainer.batch_size=16",
    ),
    "distill.epochs=2",
)
GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "poor", "dull")
FILL = ["the", "a", "film", "movie", "plot", "actor", "scene", "with", "of", "in", "and", "it", "was", "very", "quite", "story"]

pytestmark = pytest.mark.slow


def write_texts(file: Path, count: int = 120, labels: bool = True) -> None:
    draw = random.Random(3)
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["sentence", "label"])
        for number in range(count):
            words = [draw.choice(FILL) for _ in range(draw.randint(3, 9))]
            words.insert(draw.randint(0, len(words)), draw.choice((BAD, GOOD)[number % 2]))
            rows.writerow([" ".join(words), ("neg", "pos")[number % 2] if labels else ""])


@pytest.fixture
def server():
    with serving() as found:
        yield found


def api(server: Server, *more: str) -> tuple[str, ...]:
    return (
        "distill",
        *FAST,
        "teacher=api",
        f"teacher.url={server.url}",
        "teacher.model=m",
        "teacher.key_variable=TEST_API_KEY",
        "teacher.template='{text}'",
        *more,
    )


def prompts_of(server: Server) -> list[str]:
    return [body["messages"][0]["content"].split("\n\nAnswer")[0] for body in server.bodies]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A folder with texts and a small BERT that learnt them."""
    place = tmp_path_factory.mktemp("encoder")
    write_texts(place / "texts.csv")
    words = [word for word in FAST if not word.startswith(("student", "distill"))]
    finished = call("pretrain", *words, "teacher=bert_tiny", "pretrain.epochs=6", "optimizer.lr=0.002", "hydra.run.dir=teacher", cwd=place)
    assert finished.code == 0, finished.err
    return place


def probabilities(run: Path):
    """text -> the masses of the encoder's classes."""
    file = run / "pretrain" / "teacher.safetensors"
    record = read_record(file, "checkpoint")
    contract = from_record(record)
    net = obtain(ModelConfig(name="recorded", checkpoint=str(file)), contract, "model", seed=0).classifier.eval()

    @torch.no_grad()
    def of(text: str) -> dict[str, float]:
        found = net(contract.read_rows([{"text": text}])).logits[0].double().softmax(-1)
        return dict(zip(record.classes, found.tolist(), strict=True))

    return of


def test_an_encoder_behind_an_endpoint_teaches_the_student_that_it_teaches_here(server, encoder, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", KEY)
    server.masses = probabilities(encoder / "teacher")
    here = call("distill", *FAST, "teacher.checkpoint=teacher", "teacher.cache.mode=off", "loss=soft_ce", "hydra.run.dir=here", cwd=encoder)
    there = call(*api(server, "loss=soft_ce", "teacher.ask=logprobs", "hydra.run.dir=there"), cwd=encoder)
    assert (here.code, there.code) == (0, 0), here.err + there.err
    one, other = (load_file(encoder / run / "distill" / "student.safetensors") for run in ("here", "there"))
    for name, weights in one.items():
        torch.testing.assert_close(weights, other[name], rtol=1e-3, atol=1e-4)
    assert "answers all 86 training texts" in there.out
    assert "by class: neg" in there.out
    train = json.loads((encoder / "there" / "run.json").read_text())["answers"]
    assert train["answered"]["train"] == 86
    assert all(
        KEY not in file.read_text(errors="replace")
        for place in ("there", "outputs")
        for file in (encoder / place).rglob("*")
        if file.is_file()
    )


def test_nothing_is_asked_twice_by_a_run_that_goes_on_after_the_endpoint_failed(server, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    write_texts(tmp_path / "texts.csv")
    asked: list[str] = []
    server.before_answer = asked.append
    server.faults[""] = []

    def fail_later(text: str) -> None:
        asked.append(text)
        if len(asked) > 30:
            server.faults[""] = [status(401)]

    server.before_answer = fail_later
    words = api(server, "teacher.ask=logprobs", "teacher.concurrency=2", "hydra.run.dir=run")
    stopped = call(*words, cwd=tmp_path)
    assert stopped.code != 0
    assert len(stopped.err.strip().splitlines()) == 1, stopped.err
    server.before_answer, server.faults = (lambda text: None), {}
    answered = len(prompts_of(server))
    resumed = call("distill", "resume=run", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    texts = prompts_of(server)
    assert len(texts) - answered <= 86 - answered + 4  # those that were refused are asked again
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rows"]


def test_the_price_is_told_without_asking(server, tmp_path):
    write_texts(tmp_path / "texts.csv")
    (tmp_path / "prices.yaml").write_text("m: {input: 0.15, output: 0.60}\n")
    words = [word for word in api(server, "teacher.prices=prices.yaml") if word != "distill"]
    told = call("cache", "action=plan", *words, cwd=tmp_path)
    assert told.code == 0, told.err
    assert "86 calls" in told.out
    assert "of money, at most" in told.out
    assert server.bodies == []


def test_a_budget_ends_the_labelling_in_a_line_and_a_larger_one_goes_on(server, tmp_path):
    write_texts(tmp_path / "texts.csv")
    (tmp_path / "prices.yaml").write_text("m: {input: 1000, output: 1000}\n")
    short = call(*api(server, "teacher.ask=logprobs", "teacher.prices=prices.yaml", "teacher.budget=2", "hydra.run.dir=run"), cwd=tmp_path)
    assert short.code == 2, short.out
    assert "teacher.budget=2" in short.err
    assert "raise the budget" in short.err
    before = len(server.bodies)
    assert 0 < before < 86
    more = call("distill", "resume=run", "teacher.budget=1000", cwd=tmp_path)
    assert more.code == 0, more.err
    assert len(server.bodies) == 86


def test_texts_without_labels_are_taught_by_an_endpoint_alone(server, tmp_path):
    write_texts(tmp_path / "texts.csv", labels=False)
    words = api(server, "dataset.labels=false", "dataset.class_names=[neg,pos]", "loss=kd", "hydra.run.dir=run")
    finished = call(*words, cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert (tmp_path / "run" / "distill" / "student.safetensors").is_file()


def test_few_labels_that_training_does_not_look_at_are_what_a_teacher_is_held_against(server, tmp_path):
    write_texts(tmp_path / "texts.csv")
    lines = (tmp_path / "texts.csv").read_text().splitlines()
    few = [line if number % 5 < 2 else line.rpartition(",")[0] + "," for number, line in enumerate(lines[1:])]
    (tmp_path / "texts.csv").write_text("\n".join([lines[0], *few]) + "\n")
    finished = call(*api(server, "dataset.labels=false", "loss=kd", "hydra.run.dir=run"), cwd=tmp_path)
    assert finished.code == 0, finished.err
    told = re.search(r"agreement with people: .* of (\d+) texts", finished.out)
    assert told is not None, finished.out
    assert 0 < int(told[1]) < 86
    assert "people say" in finished.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("dataset=digits",), "labels texts, and the data set has images"),
        (("teacher.template='no column'",), "teacher.template: it has no column in braces"),
        (("+teacher.verbalizer.other=[x]",), "teacher.verbalizer.other: no such class"),
        (("student.max_tokens=2",), "student.max_tokens=2 must be >= 4"),
        (("loss=fitnet",), "answers are logits alone"),
        (("teacher.checkpoint=x",), "teacher.checkpoint=x is about a net, and teacher=api has none here"),
        (("teacher.budget=1",), "teacher.budget=1 needs prices"),
    ],
)
def test_what_cannot_be_is_a_line_before_anything_is_asked(words, line, server, tmp_path):
    write_texts(tmp_path / "texts.csv")
    given = [word for word in api(server) if not (words[0].startswith("dataset=") and word.startswith("dataset"))]
    refused = call(*given, *words, cwd=tmp_path)
    assert refused.code == 2, refused.err + refused.out
    assert line in refused.err, refused.err
    assert server.bodies == []


def test_a_config_file_does_not_say_where_a_key_goes(tmp_path):
    write_texts(tmp_path / "texts.csv")
    (tmp_path / "mine.yaml").write_text(
        "teacher: api\nteacher.url: https://elsewhere.example/v1\nteacher.model: m\ndataset: text\ndataset.root: texts.csv\n"
    )
    refused = call("distill", "mine.yaml", cwd=tmp_path)
    assert refused.code == 2, refused.out
    assert "teacher.url: no file says where a key is sent; type teacher.url=https://elsewhere.example/v1 on the command line" in refused.err
