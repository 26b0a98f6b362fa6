"""Everything that a user can get wrong about texts: one line that names the value, the key and the way out, and an exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mistakes import CHECKPOINT, DATA, MACHINE, USAGE, Row, check_refused, each
from safetensors.torch import load_file, save_file
from text_runs import TEACHER, WORDS, without
from texts import sentences, write_csv

GIVEN = ("dataset", "teacher", "student")
SHORT = " ".join(without(WORDS, *GIVEN, "pretrain.reuse"))
TRAIN = f"train hydra.run.dir=out {SHORT} {' '.join(TEACHER)} student=bilstm "
TEXT = TRAIN + "dataset=text dataset.vocab_size=300 dataset.max_tokens=24 "
FILE = TEXT + "dataset.root=t.csv "
REST = " ".join(without(WORDS, *GIVEN, "pretrain", "finetune", "baseline"))
DISTILL = f"distill hydra.run.dir=out {REST} student=bilstm dataset=text dataset.root=t.csv dataset.vocab_size=300 dataset.max_tokens=24 "
FOLDER = FILE.replace(" ".join(TEACHER), "teacher=transformer") + "teacher.model=net "


# ---------------------------------------------------------------------------------------------- what rows prepare
def table(
    header: tuple[str, ...], line: Callable[[int, str, str], tuple], count: int = 60, name: str = "t.csv"
) -> Callable[[Path, Path], None]:
    """`t.csv` with a line for each of some texts, by their numbers and labels."""

    def make(place: Path, run: Path) -> None:
        write_csv(place / name, [line(number, text, label) for number, (text, label) in enumerate(sentences(count))], header)

    return make


usual = table(("text", "label"), lambda _, text, label: (text, label))


def written(name: str, content: str | bytes, more: Callable[[Path, Path], None] = usual) -> Callable[[Path, Path], None]:
    def make(place: Path, run: Path) -> None:
        more(place, run)
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def a_wide_row(place: Path, run: Path) -> None:
    usual(place, run)
    lines = (place / "t.csv").read_text().splitlines()
    lines[17] = "one, two,bad"
    (place / "t.csv").write_text("\n".join(lines))


def two_files(place: Path, run: Path) -> None:
    for name in ("train.csv", "training.tsv"):
        write_csv(place / "texts" / name, sentences(20))


def unnamed_files(place: Path, run: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_csv(place / "texts" / name, sentences(20))


def other_labels_to_test(place: Path, run: Path) -> None:
    write_csv(place / "texts/train.csv", sentences(60))
    write_csv(place / "texts/test.csv", [(text, "neither") for text, _ in sentences(10)])


def trained(place: Path, run: Path) -> Path:
    """`run/`, and the texts it learned from."""
    usual(place, run)
    shutil.copytree(run, place / "run")
    return place / "run"


def net(place: Path, run: Path, **changes: object) -> Path:
    """`net/`, a folder as transformers saves them; of entries of its config.json those that are given changed."""
    usual(place, run)
    shutil.copytree(run / "pretrain", place / "net")
    weights = load_file(place / "net/teacher.safetensors")
    for name in ("teacher.safetensors", "teacher.json", "model.safetensors.index.json"):
        (place / "net" / name).unlink()
    save_file(weights, place / "net/model.safetensors", {"format": "pt"})
    config = json.loads((place / "net/config.json").read_text()) | changes
    (place / "net/config.json").write_text(json.dumps(config))
    return place / "net"


def without_tokenizer(place: Path, run: Path) -> None:
    (net(place, run) / "tokenizer.json").unlink()


def pickled_alone(place: Path, run: Path) -> None:
    folder = net(place, run)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(place: Path, run: Path) -> None:
    (net(place, run, auto_map={"AutoModelForSequenceClassification": "evil.Net"}, model_type="evil") / "evil.py").write_text(
        "open('marker', 'w')\n"
    )


def without_head(place: Path, run: Path) -> None:
    folder = net(place, run)
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if not name.startswith("classifier")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_weights(place: Path, run: Path) -> None:
    file = net(place, run) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def of_three_classes(place: Path, run: Path) -> None:
    net(place, run)
    table(("text", "label"), lambda number, text, _: (text, "abc"[number % 3]))(place, run)


def of_other_names(place: Path, run: Path) -> None:
    net(place, run)
    table(("text", "label"), lambda _, text, label: (text, {"bad": "cats", "good": "dogs"}[label]))(place, run)


def in_other_order(place: Path, run: Path) -> None:
    net(place, run, id2label={"0": "good", "1": "bad"}, label2id={"good": 0, "bad": 1})


def other_tokenizer_beside(place: Path, run: Path) -> None:
    file = trained(place, run) / "pretrain/tokenizer.json"
    file.write_text(file.read_text().replace("[UNK]", "[UNC]"))


def no_tokenizer_beside(place: Path, run: Path) -> None:
    (trained(place, run) / "pretrain/tokenizer.json").unlink()


def pairs(place: Path, run: Path) -> None:
    trained(place, run)
    table(("premise", "hypothesis", "label"), lambda _, text, label: (text, text[::-1], label))(place, run)


def changed_record(**told: object) -> Callable[[Path, Path], None]:
    def make(place: Path, run: Path) -> None:
        file = trained(place, run) / "pretrain/teacher.json"
        record = json.loads(file.read_text())
        record["preprocessing"] |= told
        file.write_text(json.dumps(record))

    return make


def interrupted(place: Path, run: Path) -> None:
    """`run/` as if it had been stopped in its last stage."""
    folder = trained(place, run)
    record = json.loads((folder / "run.json").read_text())
    record |= {"status": "interrupted", "exit_code": 130}
    del record["stages"]["finetune"]
    (folder / "run.json").write_text(json.dumps(record))


def offline(place: Path, run: Path) -> None:
    usual(place, run)


ROWS = [
    # files
    Row("no root", TEXT, USAGE, ("dataset.root is not set", "dataset.hub=")),
    Row("no file", FILE, DATA, ("dataset.root=t.csv: no such file or folder",)),
    Row("an empty file", FILE, DATA, ("t.csv: is empty",), written("t.csv", "")),
    Row("a header alone", FILE, DATA, ("t.csv: none of its rows has a text",), written("t.csv", "text,label\n")),
    Row("all texts empty", FILE, DATA, ("none of its rows has a text",), table(("text", "label"), lambda _, text, label: ("  ", label))),
    Row("no column of texts", FILE, DATA, ("none of its columns (number, label)", "dataset.text=<column>"), table(("number", "label"), lambda n, text, label: (n, label))),
    Row("a column that is not there", FILE + "dataset.text=tekst", DATA, ("dataset.text=tekst", "did you mean text?"), usual),
    Row("a label that is not there", FILE + "dataset.label=lable", DATA, ("dataset.label=lable", "did you mean label?"), usual),
    Row("a pair that is not there", FILE + "dataset.pair=hypo", DATA, ("dataset.pair=hypo", "has no such column"), usual),
    Row("one column for two", FILE + "dataset.text=label dataset.label=label", DATA, ("have to be different columns",), usual),
    Row("no labels", FILE, DATA, ("no labels (its columns: text)", "dataset.label=<column>", "dataset.labels=false"), table(("text",), lambda _, text, label: (text,))),
    Row("some without a label", FILE, DATA, ("10 of 60 training texts have no label", "dataset.labels=false"), table(("text", "label"), lambda n, text, label: (text, label if n % 6 else ""))),
    Row("one class", FILE, DATA, ("all texts are of one class, 'good'",), table(("text", "label"), lambda _, text, label: (text, "good"))),
    Row("a class of one text", FILE, DATA, ("class odd has 1 text to be split into 3 parts", "remove the class"), table(("text", "label"), lambda n, text, label: (text, label if n else "odd"))),
    Row("labels that are texts", FILE + "dataset.label=text dataset.text=label", DATA, ("class ", "has 1 text to be split"), usual),
    Row("a row of more columns", FILE, DATA, ("t.csv, line 18: 3 columns where the first line has 2", "dataset.delimiter"), a_wide_row),
    Row("an encoding that it is not in", FILE + "dataset.encoding=ascii", DATA, ("dataset.encoding=ascii", "leave it out"), written("t.csv", "text,label\ncafé,good\n")),
    Row("no such encoding", FILE + "dataset.encoding=utf8mb4", DATA, ("dataset.encoding=utf8mb4: no such encoding", "latin-1"), usual),
    Row("a delimiter of two characters", FILE + "dataset.delimiter='::'", DATA, ("dataset.delimiter=::", "expected one character"), usual),
    Row("no json", TEXT + "dataset.root=t.jsonl", DATA, ("t.jsonl, line 2: no JSON",), written("t.jsonl", '{"text": "a", "label": 1}\n{"text": \n')),
    Row("no parquet", TEXT + "dataset.root=t.parquet", DATA, ("t.parquet: no parquet file that can be read",), written("t.parquet", "PAR1")),
    Row("parquet without its library", TEXT + "dataset.root=t.parquet", MACHINE, ("distillctl[parquet]",), written("t.parquet", "PAR1"), without=("pyarrow", "pyarrow.parquet")),
    Row("a file of another kind", TEXT + "dataset.root=t.xlsx", DATA, ("t.xlsx: files of texts are .csv",), written("t.xlsx", "PK")),
    Row("a folder without tables", TEXT + "dataset.root=texts", DATA, ("no files of texts in this folder", ".csv"), written("texts/readme.md", "")),
    Row("two files to train on", TEXT + "dataset.root=texts", DATA, ("train.csv and training.tsv are both train files",), two_files),
    Row("files whose part nobody knows", TEXT + "dataset.root=texts", DATA, ("which of a.csv, b.csv", "Name them train, val and test"), unnamed_files),
    Row("labels to test that nobody learns", TEXT + "dataset.root=texts", DATA, ("class neither has 0 texts to be split into 2 parts",), other_labels_to_test),
    Row("too few names of classes", FILE + "dataset.class_names=[a,b,c]", DATA, ("dataset.class_names=['a', 'b', 'c']: 3 names", "the labels bad, good"), usual),
    Row("groups of a column that is not there", FILE + "dataset.groups=author", DATA, ("dataset.groups=author", "or take contained"), usual),
    Row("more shots than texts", FILE + "dataset.shots=50", DATA, ("dataset.shots=50: class bad has", "training texts; lower it"), usual),
    # keys
    Row("keys of images", FILE + "dataset.image_size=32", USAGE, ("dataset.image_size=32: unknown key",), usual),
    Row("augmentation of images", FILE + "dataset.augment.flip=0.5", USAGE, ("dataset.augment.flip=0.5: unknown key",), usual),
    Row("a probability of two", FILE + "dataset.augment.mask=2", USAGE, ("dataset.augment.mask=2",), usual),
    Row("too small a vocabulary", FILE + "dataset.vocab_size=10", USAGE, ("dataset.vocab_size=10 must be >= 260",), usual),
    Row("too few tokens", FILE + "dataset.max_tokens=1", USAGE, ("dataset.max_tokens=1 must be >= 4",), usual),
    Row("a net of images", FILE.replace("student=bilstm", "student=resnet8"), USAGE, ("student=resnet8 sees images, and the data set has texts", "bilstm"), usual),
    Row("a net of texts on images", f"train hydra.run.dir=out {SHORT} teacher=resnet8 student=bilstm dataset=digits", USAGE, ("student=bilstm", "texts")),
    Row("a size of images", FILE + "student.image_size=32", USAGE, ("student.image_size=32 is about images", "leave it out"), usual),
    Row("published weights", FILE + "student.pretrained=true", USAGE, ("student.pretrained=True is about images", "student.model="), usual),
    Row("an argument of no net", FILE + "+student.args.widht=3", USAGE, ("widht", "width"), usual),
    Row("an argument that a net does not take", FILE + "+student.args.states=-3", USAGE, ("student.args: bilstm does not take",), usual),
    Row("a setting of no BERT", FILE + "+teacher.args.hidden=3", USAGE, ("teacher.args: bert has no setting hidden",), usual),
    Row("heads that do not divide", FILE + "++teacher.args.num_attention_heads=5", USAGE, ("teacher.args: bert does not take",), usual),
    Row("an attack", FILE + "attack=pgd", USAGE, ("attack=pgd", "the data set has texts"), usual),
    Row("a method of images", FILE + "method=data_free", USAGE, ("DataFree is about images, and the data set has texts",), usual),
    # templates
    Row("a template of no column", FILE + "student.template='{tekst}'", USAGE, ("student.template: {tekst} is no column", "did you mean text?"), usual),
    Row("a template without a column", FILE + "student.template=hello", USAGE, ("student.template: it has no column in braces",), usual),
    Row("a template of half a brace", FILE + r"student.template='\{text'", USAGE, ("student.template: ",), usual),
    Row("a template that says how", FILE + "student.template='{text!r}'", USAGE, ("student.template: expected the name of a column",), usual),
    Row("a template that is too long", FILE + "student.max_tokens=4 student.template='one two three four five six {text}'", USAGE, ("student.max_tokens=4: the template alone has",), usual),
    # tokenizers and nets of others
    Row("no tokenizer in a folder", FILE + "student.tokenizer=./empty", USAGE, ("student.tokenizer=./empty: there is no tokenizer.json",), written("empty/readme", "")),
    Row("a tokenizer that is none", FILE + "student.tokenizer=t.json", USAGE, ("student.tokenizer=t.json: no tokenizer.json that can be read",), written("t.json", "{}")),
    Row("a tokenizer that is no text", FILE + "student.tokenizer=t.json", USAGE, ("student.tokenizer=t.json: cannot be read (no UTF-8)",), written("t.json", b"\xff\xfe{")),
    Row("a tokenizer of a hub that cannot be had", FILE + "student.tokenizer=some/name", MACHINE, ("student.tokenizer=some/name: no such folder here, and the hub does not give it",), offline),
    Row("a model of a hub that cannot be had", FOLDER.replace("=net ", "=some/name "), MACHINE, ("teacher.model=some/name: no such folder here",), offline),
    Row("a set of a hub that cannot be had", TEXT + "dataset.hub=some/name", MACHINE, ("dataset.hub=some/name: cannot be had",)),
    Row("no model named", FOLDER.replace("teacher.model=net ", ""), USAGE, ("teacher.model is not set", "teacher=bert_small from scratch"), usual),
    Row("a model for a net of ours", FILE + "student.model=net", USAGE, ("student.model=net: bilstm is built here",), usual),
    Row("a model that is no folder", FOLDER.replace("=net ", "=./net "), USAGE, ("teacher.model=./net",), usual),
    Row("a model without its tokenizer", FOLDER.replace("=net ", "=./net "), USAGE, ("teacher.model=./net: there is no tokenizer.json",), without_tokenizer),
    Row("weights that are pickled alone", FOLDER, CHECKPOINT, ("teacher.model=net: cannot be used",), pickled_alone),
    Row("a model with code of its own", FOLDER, CHECKPOINT, ("teacher.model=net: cannot be used",), with_code),
    Row("weights that are cut", FOLDER, CHECKPOINT, ("teacher.model=net: cannot be used",), cut_weights),
    Row("a model without a head", FOLDER, CHECKPOINT, ("no weights for classifier.bias", "teacher.new_head=true"), without_head),
    Row("a model of other classes", FOLDER, CHECKPOINT, ("teacher.new_head=true",), of_three_classes),
    Row("a model of other names", FOLDER, CHECKPOINT, ("its classes are bad, good, the data set's cats, dogs", "teacher.ignore_class_names=true"), of_other_names),
    Row("a model of another order", FOLDER, CHECKPOINT, ("in another order (good, bad)",), in_other_order),
    Row("more tokens than a model has places", FOLDER.replace("max_tokens=24", "max_tokens=100"), USAGE, ("dataset.max_tokens=100: teacher has places for 64 tokens", "teacher.max_tokens=64"), net),
    Row("more tokens than a new net has places", FILE.replace("max_tokens=24", "max_tokens=100"), USAGE, ("max_tokens=100", "64"), usual),
    Row("a tokenizer of more ids than the net", FOLDER.replace("vocab_size=300", "vocab_size=280") + "teacher.tokenizer=run.json", USAGE, ("teacher.tokenizer: it has", "take the net's own"), lambda place, run: larger_tokenizer(place, run)),
    # checkpoints
    Row("a tokenizer that is gone", DISTILL + "teacher.checkpoint=run", CHECKPOINT, ("tokenizer.json cannot be read", "keep the tokenizer beside the weights"), no_tokenizer_beside),
    Row("a tokenizer that is another", DISTILL + "teacher.checkpoint=run", CHECKPOINT, ("is not the tokenizer that the model learned with",), other_tokenizer_beside),
    Row("a record without a tokenizer", DISTILL + "teacher.checkpoint=run", CHECKPOINT, ("preprocessing.tokenizer",), changed_record(tokenizer=None)),
    Row("a record of a bad template", DISTILL + "teacher.checkpoint=run", CHECKPOINT, ("preprocessing.template is no template",), changed_record(template="{")),
    Row("a model of single texts for pairs", DISTILL + "teacher.checkpoint=run", USAGE, ("reads single texts, and the data set has pairs of texts", "dataset.pair=''"), pairs),
    Row("a model of texts for images", "distill hydra.run.dir=out dataset=digits student=resnet8 teacher.checkpoint=run", CHECKPOINT, ("teacher.checkpoint=run",), trained),
    Row("evaluate on images", "evaluate hydra.run.dir=out checkpoint=run dataset=digits", CHECKPOINT, ("checkpoint takes texts, and the data set has images",), trained),
    Row("predict what is no text", "predict checkpoint=run inputs=[run/pretrain/teacher.safetensors]", DATA, ("bytes that no text has",), trained),
    Row("predict an empty file", "predict checkpoint=run inputs=[e.txt]", DATA, ("inputs=e.txt: no texts in it",), lambda place, run: (trained(place, run), (place / "e.txt").touch())),
    Row("predict a table without texts", "predict checkpoint=run inputs=[n.csv]", DATA, ("n.csv: none of its columns", "call it text"), lambda place, run: (trained(place, run), write_csv(place / "n.csv", [(1, 2)], ("no", "label")))),
    Row("resume by other tokens", "train resume=run dataset.max_tokens=32", USAGE, ("dataset.max_tokens was 24, now 32", "start a new run"), interrupted),
    Row("resume by other texts", "train resume=run dataset.root=t.csv", DATA, ("dataset.root: the data set is not what it was", "start a new run"), lambda place, run: (interrupted(place, run), table(("text", "label"), lambda n, text, label: (f"{text} more", label), 240)(place, run))),
]  # fmt: skip


def larger_tokenizer(place: Path, run: Path) -> None:
    from distillctl.data.text import tokenizer

    net(place, run)
    (place / "run.json").write_text(
        tokenizer.train([f"{text} {number} word{number}" for number, (text, _) in enumerate(sentences(400))], 600, False)
    )


@each(ROWS)
def test_a_mistake_is_one_line_with_a_way_out(row: Row, text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in row.without:
        monkeypatch.setitem(__import__("sys").modules, name, None)
    if row.prepare:
        row.prepare(tmp_path, text_run)
    check_refused(row, tmp_path)
