"""Prompts: examples in templates, context that a student never sees."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from commands import call
from language import reviews, write_reviews
from mistakes import USAGE, Row, check_refused, each
from processes import shell

from distillctl.config import ModelConfig, TextSetConfig
from distillctl.data.text import sets, tokenizer
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.examples import draw
from distillctl.data.text.ragged import Strings
from distillctl.data.text.template import parse
from distillctl.errors import ConfigError
from distillctl.inputs.text import Texts

QUICK = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "trainer.batch_size=16")
SHOWN = {"template": "{examples}Q: {text}\\nA:", "example_template": "Q: {text}\\nA: {label}\\n"}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("reviews") / "reviews.csv")


@pytest.fixture(scope="module")
def loaded(table) -> tuple[sets.TextSet, Texts]:
    config = TextSetConfig(name="text", root=str(table), max_tokens=400)
    return Texts.of(sets.load(config), config)


def prompts(inputs: Texts, **config) -> list[str]:
    """What a model reads of each row of the corpus."""
    template = inputs.template_of(ModelConfig(name="bag", **{**SHOWN, **config}), "teacher")
    assert template is not None
    return [template.filled(inputs.corpus, row) for row in range(len(inputs.corpus))]


def shown(prompt: str) -> list[tuple[str, str]]:
    return re.findall(r"Q: (.*)\nA: (.*)\n", prompt)


# ------------------------------------------------------------------------------------------------ examples
@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_examples_are_training_texts_with_their_labels_as_many_of_each_class_as_can_be(loaded, count):
    data, inputs = loaded
    true, training = dict(reviews()), {inputs.corpus.words_of("text", row) for row in data.train.inputs.tolist()}
    for prompt in prompts(inputs, examples=count):
        found = shown(prompt)
        assert len(found) == count
        assert len({text for text, _ in found}) == count
        assert all(text in training and true[text] == label for text, label in found)
        sizes = Counter(label for _, label in found)
        assert max(sizes.values()) - min(sizes["negative"], sizes["positive"]) <= 1


def test_no_text_sees_itself_and_the_next_one_of_its_class_stands_in(loaded):
    _, inputs = loaded
    all_prompts = prompts(inputs, examples=4)
    usual = Counter(prompt.rpartition("Q: ")[0] for prompt in all_prompts)
    [(examples, often)] = usual.most_common(1)
    among = {text: place for place, (text, _) in enumerate(shown(examples))}
    assert often == len(inputs.corpus) - 4
    for row, prompt in enumerate(all_prompts):
        own = inputs.corpus.words_of("text", row)
        assert own not in [text for text, _ in shown(prompt)]
        if own in among:
            pairs = list(zip(shown(prompt), shown(examples), strict=True))
            differ = [place for place, (one, other) in enumerate(pairs) if one != other]
            assert differ == [among[own]]
            assert pairs[differ[0]][0][1] == pairs[differ[0]][1][1]  # of the same class


def test_where_no_other_text_is_left_there_is_one_example_less():
    corpus = Corpus({"text": Strings.of(("one", "two", "three"))}, "text", None)
    corpus.targets, corpus.classes = torch.tensor([0, 1, 1]), ("a", "b")
    inputs = Texts(("a", "b"), corpus)
    found = [len(shown(prompt)) for prompt in prompts(inputs, examples=2)]
    assert found[0] == 1  # the only one of its class
    assert found[1:] == [2, 2]
    with pytest.raises(ConfigError, match=r"teacher.examples=4: there are 3 different training texts with labels to draw from; lower it"):
        prompts(inputs, examples=4)


def test_a_text_that_occurs_twice_is_no_example_of_itself():
    corpus = Corpus({"text": Strings.of(("same", "same", "other", "more"))}, "text", None)
    corpus.targets, corpus.classes = torch.tensor([0, 0, 1, 0]), ("a", "b")
    for prompt in prompts(Texts(("a", "b"), corpus), examples=2):
        texts = [text for text, _ in shown(prompt)]
        assert len(set(texts)) == len(texts)
        assert prompt.rpartition("Q: ")[2].removesuffix("\nA:") not in texts


def test_examples_are_a_function_of_the_training_split_and_their_seed(loaded, table):
    _, inputs = loaded
    config = TextSetConfig(name="text", root=str(table), max_tokens=400)
    _, again = Texts.of(sets.load(config), config)
    assert prompts(inputs, examples=4) == prompts(again, examples=4)
    assert prompts(inputs, examples=4) != prompts(inputs, examples=4, examples_seed=1)
    assert draw(inputs.corpus, 4, 0, True).rows != draw(inputs.corpus, 4, 1, True).rows


def test_examples_are_a_part_of_what_marks_a_reader(loaded):
    _, inputs = loaded

    def mark(**config) -> str:
        content = tokenizer.train(["some words"], 300, False)
        template = inputs.template_of(ModelConfig(name="bag", **{**SHOWN, **config}), "teacher")
        return inputs.reader_of(ModelConfig(name="bag"), "teacher", content, 0, template, 400).mark

    marks = [mark(examples=4), mark(examples=5), mark(examples=4, examples_seed=1), mark(examples=4, example_template="{text} {label}")]
    assert len(set(marks)) == 4
    assert mark(examples=4) == marks[0]


def test_a_language_model_is_shown_its_own_words():
    corpus = Corpus({"text": Strings.of(("one", "two"))}, "text", None)
    corpus.targets, corpus.classes = torch.tensor([0, 1]), ("a", "b")
    config = {"examples": 1, "template": "{examples}{text} is", "example_template": "{text} is{label}. "}
    found = prompts(Texts(("a", "b"), corpus), verbalizer={"a": [" bad", " grim"], "b": " good"}, **config)
    assert set(found) <= {"one is bad. two is", "two is good. one is", "one is", "two is"}
    assert any(" is bad. " in prompt or " is good. " in prompt for prompt in found)


def test_what_is_spelled_out_reads_the_same_again_whatever_it_holds():
    corpus = Corpus({"text": Strings.of((r"a \n {brace} \t", "plain"))}, "text", None)
    corpus.targets, corpus.classes = torch.tensor([0, 1]), ("a", "b")
    template = Texts(("a", "b"), corpus).template_of(ModelConfig(name="bag", examples=2, **SHOWN), "teacher")
    assert template is not None
    again = parse(template.spelled(), "teacher.template", ("text",), typed=False)
    other = Corpus({"text": Strings.of(("new",))}, "text", None)
    assert again.filled(other, 0) == template.filled(other, 0)
    assert r"a \n {brace} \t" in again.filled(other, 0)


def run(command: str, *words: str, cwd: Path) -> str:
    """What it printed; a run's folder is `run` unless words say otherwise."""
    folder = () if command == "predict" else ("hydra.run.dir=run",)
    finished = call(command, *QUICK, *folder, *words, cwd=cwd)
    assert finished.code == 0, finished.err + finished.out
    return finished.out


def test_a_student_with_examples_ships_them_and_its_script_reads_them(table, tmp_path):
    words = ("dataset=text", f"dataset.root={table}", "teacher=bag", "student=bag", "dataset.max_tokens=200", "baseline=false")
    few = ("student.examples=3", "student.template={examples}{text}", "pretrain.epochs=1", "distill.epochs=2", "finetune.epochs=0")
    run("train", *words, *few, cwd=tmp_path)
    folder = tmp_path / "run/distill"
    told = json.loads((folder / "student.json").read_text())["preprocessing"]["template"]
    assert told.endswith("{text}")
    assert told.count("\nnegative\n\n") + told.count("\npositive\n\n") == 3
    text = "a new and lovely film"
    (tmp_path / "new.txt").write_text(f"{text}\n")
    said = run("predict", "checkpoint=run", "inputs=[new.txt]", "format=jsonl", "top_k=1", cwd=tmp_path)
    printed = shell(sys.executable, str(folder / "load_student.py"), text)
    assert printed.returncode == 0, printed.stderr
    name, probability = printed.stdout.split()[-2:]
    [ours] = json.loads(said)["answers"]
    assert ours == {"class": name, "p": pytest.approx(float(probability), abs=1e-4)}


# ------------------------------------------------------------------------------------------------ context that the student never sees
def test_a_teacher_reads_a_column_that_its_student_never_sees(tmp_path):
    with (tmp_path / "hinted.csv").open("w") as stream:
        stream.write("text,hint,label\n")
        for number, (text, label) in enumerate(reviews()):
            stream.write(f"{text} {number},{'thumb up' if label == 'positive' else 'thumb down'},{label}\n")
    words = ("dataset=text", "dataset.root=hinted.csv", "trainer.batch_size=8", "optimizer.lr=0.02")
    run("pretrain", *words, "teacher=bag", "teacher.template={hint} {text}", "pretrain.epochs=4", "hydra.run.dir=teacher", cwd=tmp_path)
    learned = ("teacher.checkpoint=teacher", "student=bag", "distill.epochs=6")
    run("distill", *words, *learned, "hydra.run.dir=plain", cwd=tmp_path)
    told = json.loads((tmp_path / "plain/distill/student.json").read_text())["preprocessing"]
    assert told["template"] is None
    rows = {row["model"]: row for row in json.loads((tmp_path / "plain/summary.json").read_text())["rows"]}
    assert rows["teacher"]["top1"] == 1
    assert rows["distilled"]["agreement"] > 0.6
    run("distill", *words, *learned, "teacher.template={text} {text}", "hydra.run.dir=blind", cwd=tmp_path)
    blind = {row["model"]: row for row in json.loads((tmp_path / "blind/summary.json").read_text())["rows"]}
    assert blind["teacher"]["top1"] < 1  # which shows that the hint was read
    (tmp_path / "new.txt").write_text("a lovely film\n")
    assert "positive" in run("predict", "checkpoint=plain", "inputs=[new.txt]", cwd=tmp_path)


def test_the_same_weights_with_and_without_a_prompt_are_teacher_and_student(table, tmp_path):
    words = ("dataset=text", f"dataset.root={table}", "trainer.batch_size=8")
    run("pretrain", *words, "teacher=bert_tiny", "pretrain.epochs=1", "hydra.run.dir=first", cwd=tmp_path)
    both = ("teacher.checkpoint=first", "student=recorded", "student.checkpoint=first", "teacher.template=a good word on this one: {text}")
    out = run("distill", *words, *both, "distill.epochs=2", "teacher.cache.mode=off", cwd=tmp_path)
    assert "teacher: top-1" in out
    record = json.loads((tmp_path / "run/distill/student.json").read_text())
    assert record["preprocessing"]["template"] is None
    assert record["parents"]["start"] == json.loads((tmp_path / "first/pretrain/teacher.json").read_text())["sha256"]


# ------------------------------------------------------------------------------------------------ what is wrong is told in a line
BASE = "pretrain dataset=text dataset.root=reviews.csv teacher=bag"
WRONG = [
    Row("examples without a template", f"{BASE} teacher.examples=2", USAGE, ("teacher.examples=2: no template says where they go",)),
    Row("a template without examples", f"{BASE} teacher.template={{examples}}{{text}}", USAGE, ("set teacher.examples=4, or leave",)),
    Row("no place for examples", f"{BASE} teacher.template={{text}} teacher.examples=2", USAGE, ("put {examples} into it",)),
    Row("too many", f"{BASE} teacher.template={{examples}}{{text}} teacher.examples=9999", USAGE, ("there are 173 different training texts",)),
    Row("too long", f"{BASE} teacher.template={{examples}}{{text}} teacher.examples=90", USAGE, ("the template alone has", "fewer examples")),
    Row(
        "an unknown column",
        f"{BASE} teacher.template={{examples}}{{text}} teacher.examples=2 teacher.example_template={{txet}}",
        USAGE,
        ("teacher.example_template: {txet} is no column", "text"),
    ),
    Row("a template of nothing", f"{BASE} teacher.example_template={{text}}", USAGE, ("teacher.example_template is about examples",)),
    Row(
        "no labels",
        f"{BASE.replace('pretrain', 'distill')} teacher.checkpoint=null dataset.labels=false teacher.examples=2 teacher.template={{examples}}{{text}}",
        USAGE,
        ("teacher",),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(table, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("wrong")
    (place / "reviews.csv").symlink_to(table)
    return place


@each(WRONG)
def test_a_mistake_is_one_line(row, workshop):
    check_refused(row, workshop)
