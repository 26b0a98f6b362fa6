"""What a run on texts leaves is opened by others and by ourselves, and answers alike: plain transformers, its script, predict, evaluate."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import call
from text_runs import WORDS, rows, without, written
from texts import sentences, write_csv

SHORT = ("pretrain.epochs=1", "distill.epochs=1")
QUICK = (*without(WORDS, "pretrain.epochs", "distill.epochs"), *SHORT)
OTHERS = sentences(40, seed=5)
PLAIN = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")


def predicted(model: Path, *inputs: Path | str, place: Path, form: str = "jsonl") -> list[dict]:
    asked = call("predict", f"checkpoint={model}", f"inputs=[{','.join(map(str, inputs))}]", f"format={form}", *PLAIN, cwd=place)
    assert (asked.code, asked.err) == (0, ""), asked.err
    return [json.loads(line) for line in asked.out.splitlines()]


def by_class(answer: dict) -> dict[str, float]:
    return {each["class"]: each["p"] for each in answer["answers"]}


def scripted(file: Path) -> dict:
    """What a loading script defines."""
    return runpy.run_path(str(file), run_name="loaded")


def asked_of_script(file: Path, texts: list[str]) -> list[list[float]]:
    script = scripted(file)
    net = script["load"]()
    with torch.inference_mode():
        return [script["answer"](net, script["preprocess"](text)).softmax(-1)[0].tolist() for text in texts]


@pytest.fixture(scope="module")
def asked(text_run: Path) -> Path:
    return write_csv(text_run.parent / "asked.csv", OTHERS)


def test_plain_transformers_opens_the_teacher_s_folder_and_answers_as_predict_does(text_run, asked, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = text_run / "pretrain"
    net, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert net.config.id2label == {0: "bad", 1: "good"}
    texts = [text for text, _ in OTHERS]
    given = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.inference_mode():
        theirs = net(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits.softmax(-1)
    ours = predicted(folder, asked, place=tmp_path)
    assert [answer["text"] for answer in ours] == texts
    for row, answer in zip(theirs.tolist(), ours, strict=True):
        assert by_class(answer) == pytest.approx(dict(zip(("bad", "good"), row, strict=True)), abs=1e-5)


@pytest.mark.parametrize("stage", ["pretrain/load_teacher.py", "finetune/load_student.py"])
def test_its_script_answers_as_predict_does(stage, text_run, asked, tmp_path):
    file = text_run / stage
    theirs = asked_of_script(file, [text for text, _ in OTHERS])
    ours = predicted(file.parent, asked, place=tmp_path)
    for row, answer in zip(theirs, ours, strict=True):
        assert by_class(answer) == pytest.approx(dict(zip(("bad", "good"), row, strict=True)), abs=1e-5)


def test_its_script_needs_none_of_us(text_run, tmp_path):
    file = text_run / "finetune/load_student.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    blocked = "import sys; sys.modules['distillctl'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    printed = subprocess.run(
        [sys.executable, "-c", blocked, str(file), "an awful film"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    ).stdout
    [answer] = predicted(file.parent, write_csv(tmp_path / "one.csv", [("an awful film", "")]), place=tmp_path)
    best = answer["answers"][0]
    assert printed.split()[-2:] == [best["class"], str(round(best["p"], 4))]


def test_predict_reads_tables_lines_and_what_is_piped_in_alike(text_run, asked, tmp_path, monkeypatch):
    texts = [text for text, _ in OTHERS]
    (tmp_path / "lines.txt").write_text("\n\n".join(texts) + "\n")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"sentence": text}) for text in texts))
    write_csv(tmp_path / "bare.csv", [(text,) for text in texts[1:]], header=(texts[0],))
    piped = io.TextIOWrapper(io.BytesIO("\n".join(texts).encode() + b"\n\xff\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", piped)
    expected = predicted(text_run, asked, place=tmp_path)
    for name in ("lines.txt", "rows.jsonl", "bare.csv"):
        found = predicted(text_run, tmp_path / name, place=tmp_path)
        assert [answer["text"] for answer in found] == texts
        for answer, other in zip(found, expected, strict=True):
            assert by_class(answer) == pytest.approx(by_class(other), abs=1e-6)
    *found, strange = predicted(text_run, "-", place=tmp_path)
    assert [by_class(answer) for answer in found] == [pytest.approx(by_class(other), abs=1e-6) for other in expected]
    assert strange["text"] == "\ufffd"
    assert len(predicted(text_run, tmp_path / "lines.txt", asked, place=tmp_path)) == 80


def test_predict_writes_csv_that_is_read_again(text_run, asked, tmp_path):
    done = call("predict", f"checkpoint={text_run}", f"inputs=[{asked}]", "format=csv", "top_k=1", *PLAIN, cwd=tmp_path)
    assert done.code == 0, done.err
    header, *lines = done.out.splitlines()
    assert header == "text,class,p"
    assert [line.split(",")[0] for line in lines] == [text for text, _ in OTHERS]


def test_evaluate_finds_the_recorded_texts_again_and_takes_another_file(text_run, asked, tmp_path):
    def evaluated(*words: str) -> dict:
        done = call("evaluate", f"checkpoint={text_run}", *words, *PLAIN, f"hydra.run.dir={len(list(tmp_path.iterdir()))}", cwd=tmp_path)
        assert done.code == 0, done.err
        return json.loads(sorted(tmp_path.glob("*/evaluation.json"))[-1].read_text())

    summary = json.loads((text_run / "summary.json").read_text())
    final = rows(text_run)[summary["final"]]
    again = evaluated(f"teacher.checkpoint={text_run}")
    assert again["measured"]["top1"] == pytest.approx(final["top1"])
    assert again["measured"]["agreement"] == pytest.approx(final["agreement"])
    other = evaluated(f"dataset.root={asked}")
    right = sum(
        max(by_class(answer), key=by_class(answer).get) == label
        for answer, (_, label) in zip(predicted(text_run, asked, place=tmp_path), OTHERS, strict=True)
    )
    assert other["measured"]["n"] == 40
    assert other["measured"]["top1"] == pytest.approx(right / 40)
    assert other["split"] == "all"


def test_a_file_of_some_classes_is_measured_by_those_of_the_model(text_run, tmp_path):
    write_csv(tmp_path / "good.csv", [row for row in OTHERS if row[1] == "good"])
    done = call("evaluate", f"checkpoint={text_run}", f"dataset.root={tmp_path / 'good.csv'}", *PLAIN, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "nothing here is of the classes: bad" in done.out


# --- pairs, templates and columns of one's own


@pytest.fixture(scope="module")
def hinted(tmp_path_factory) -> Path:
    """A run whose teacher is told a hint by a template that is longer than it may be, and whose student is not."""
    place = tmp_path_factory.mktemp("hinted")
    lines = [(text, f"hint {label}", label) for text, label in sentences(200, longest=30)]
    write_csv(place / "t.csv", lines, header=("comment", "hint", "label"))
    words = ("dataset.text=comment", "teacher.template='{hint} then: {text} end'", "hydra.run.dir=run")
    done = call("train", *QUICK, *words, cwd=place)
    assert done.code == 0, done.err
    return place / "run"


def test_a_template_is_filled_by_predict_and_by_the_script_alike_also_where_it_is_cut(hinted, tmp_path):
    table = hinted.parent / "t.csv"
    ours = predicted(hinted / "pretrain", table, place=tmp_path)
    lines = [dict(zip(("text", "hint"), (text, f"hint {label}"), strict=True)) for text, label in sentences(200, longest=30)]
    assert [answer["text"] for answer in ours] == [line["text"] for line in lines], "the column that it learned from is found"
    chosen = sorted(range(200), key=lambda place: -len(lines[place]["text"]))[:10]
    theirs = asked_of_script(hinted / "pretrain/load_teacher.py", [json.dumps(lines[place]) for place in chosen])
    for place, row in zip(chosen, theirs, strict=True):
        assert by_class(ours[place]) == pytest.approx(dict(zip(("bad", "good"), row, strict=True)), abs=1e-5)


def test_a_column_that_is_not_there_is_named(hinted, tmp_path):
    write_csv(tmp_path / "plain.csv", OTHERS)
    done = call("predict", f"checkpoint={hinted / 'pretrain'}", "inputs=[plain.csv]", *PLAIN, cwd=tmp_path)
    assert done.code == 3
    assert "it has no hint, which the model reads; pass a table with that column" in done.err
    script = scripted(hinted / "pretrain/load_teacher.py")
    with pytest.raises(SystemExit, match="it has no hint; pass JSON of hint, text"):
        script["preprocess"]("a film")


def test_pairs_are_read_by_predict_and_by_the_script_alike(tmp_path):
    lines = [(text, other, label) for (text, label), (other, _) in zip(sentences(200), sentences(200, seed=9), strict=True)]
    write_csv(tmp_path / "t.csv", lines, header=("premise", "hypothesis", "label"))
    done = call("train", *QUICK, "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    ours = predicted(tmp_path / "run/pretrain", tmp_path / "t.csv", place=tmp_path)
    given = [json.dumps({"text": text, "pair": pair}) for text, pair, _ in lines[:20]]
    for row, answer in zip(asked_of_script(tmp_path / "run/pretrain/load_teacher.py", given), ours, strict=False):
        assert by_class(answer) == pytest.approx(dict(zip(("bad", "good"), row, strict=True)), abs=1e-5)
    (tmp_path / "one.txt").write_text("a film\n")
    refused = call("predict", "checkpoint=run", "inputs=[one.txt]", *PLAIN, cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (3, 1)
    assert "it has no pair, which the model reads" in refused.err


# --- nets of others


def test_a_folder_of_others_learns_ships_and_opens_again_and_what_its_file_says_besides_is_never_code(text_run, tmp_path):
    written(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("teacher.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"):
        (theirs / name).write_bytes((text_run / "pretrain" / name).read_bytes())
    config = json.loads((theirs / "config.json").read_text())
    config |= {
        "gradient_checkpointing": False,
        "x=open('marker', 'w')": 1,
        "id2label": {"0": "Bad", "1": "GOOD"},
        "label2id": {"Bad": 0, "GOOD": 1},
    }
    (theirs / "config.json").write_text(json.dumps(config))
    words = without(QUICK, "teacher", "student", "distill", "finetune", "baseline", "loss", "pretrain.reuse")
    done = call("pretrain", *words, "teacher=transformer", f"teacher.model={theirs}", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert rows(tmp_path / "run")["teacher"]["top1"] > 0.8, "its head was taken too"
    script = (tmp_path / "run/pretrain/load_teacher.py").read_text()
    assert "marker" not in script
    assert "gradient_checkpointing" not in script
    table = write_csv(tmp_path / "o.csv", OTHERS)
    ours = predicted(tmp_path / "run/pretrain", table, place=tmp_path)
    assert len(ours) == 40
    assert asked_of_script(tmp_path / "run/pretrain/load_teacher.py", ["a film"])
    assert not (tmp_path / "marker").exists()


# --- what texts cannot do yet


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("train", *QUICK, "deploy=onnx_int8"), 2, "files for other runtimes are made of nets that see images, and the data set has texts"),
        (("train", *QUICK, "export.format=onnx"), 2, "files for other runtimes are made of nets that see images"),
        (("export", "checkpoint={run}", "format=onnx"), 2, "files for other runtimes are made of nets that see images"),
        (("compress", "student.checkpoint={run}", "quantize=dynamic"), 2, "files for other runtimes are made of nets that see images"),
        (("train", *without(QUICK, "student"), "student=bert_tiny", "prune=magnitude"), 2, "take prune=unstructured"),
        (("stream", "dataset=text", "dataset.root=t.csv", "student=bilstm"), 2, "a stream keeps samples of one shape"),
        (("lifelong", "dataset=text", "dataset.root=t.csv", "tasks=2", "memory.size=20", "strategy=icarl"), 2, "take strategy=er"),
    ],
)  # fmt: skip
def test_what_texts_cannot_do_is_refused_before_anything_is_trained(words, code, line, text_run, tmp_path):
    written(tmp_path)
    refused = call(
        *(word.format(run=text_run) if word.startswith(("checkpoint", "student.checkpoint")) else word for word in words),
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    assert refused.code == code, refused.err + refused.out
    assert line in refused.err
    assert refused.err.count("\n") == 1
    assert not list(tmp_path.glob("out/*/*.safetensors"))


@pytest.mark.parametrize("strategy", ["ewc", "lwf", "lwf_mc", "joint", "er", "derpp"])
def test_tasks_of_texts_are_learnt(strategy, tmp_path):
    lines = [
        (f"{text} {'north' if number % 4 < 2 else 'south'}", f"{label} {number % 4 // 2}")
        for number, (text, label) in enumerate(sentences(240))
    ]
    write_csv(tmp_path / "t.csv", lines)
    words = (
        *without(QUICK, "teacher", "pretrain", "distill", "finetune", "baseline", "optimizer", "student"),
        "tasks=2",
        "lifelong.epochs=3",
        "optimizer.lr=0.01",
    )
    done = call("lifelong", *words, f"strategy={strategy}", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    for row in rows(tmp_path / "run").values():
        assert sum(row["matrix"][-1]) / 2 == pytest.approx(row["top1"]), (
            "both tasks have as many test texts, whose answers are told by their tasks"
        )
    assert rows(tmp_path / "run")["joint"]["top1"] > 0.6
