"""A file that another framework exported teaches as the net that it was made from does."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import TINY, call
from exported import dense, export, foreign, shipped
from onnx import TensorProto, helper
from safetensors.torch import load_file

import distillctl
from distillctl.metrics.quality import agreement, top_k_accuracy

DISTIL = (*TINY[1:2], "distill.epochs=3", *TINY[5:], "dataset=digits")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A teacher as weights, as a file of ours, and as one without a word of ours."""
    folder = tmp_path_factory.mktemp("teachers")
    made = call("pretrain", "teacher=resnet20", "pretrain.epochs=6", *TINY[5:], "hydra.run.dir=run", cwd=folder)
    assert made.code == 0, made.err
    weights = folder / "run" / "pretrain" / "teacher.safetensors"
    export(weights, folder / "ours" / "teacher.onnx")
    foreign(shipped(weights)[0].classifier.net, folder / "net.onnx", 8)
    return folder


@pytest.fixture(scope="module")
def digits():
    """uint8 [N, 3, 8, 8] and labels, as the data set has them, of the test split."""
    from distillctl.config import ImageSetConfig
    from distillctl.inputs.image import Images

    data, _ = Images.load(ImageSetConfig(name="digits"), None)
    return data.test.inputs, data.test.targets


def distil(place: Path, name: str, *words: str, code: int = 0):
    finished = call("distill", *DISTIL, *words, f"hydra.run.dir={name}", cwd=place)
    assert finished.code == code, finished.err
    return finished


def rows_of(place: Path, run: str) -> dict:
    return {row["model"]: row for row in json.loads((place / run / "summary.json").read_text())["rows"]}


def record_of(place: Path, run: str) -> dict:
    return json.loads((place / run / "distill" / "student.json").read_text())


def test_a_student_of_the_file_is_the_student_of_the_net(place, digits):
    images, labels = digits
    said = {
        "net": distil(place, "by-net", "teacher.checkpoint=run"),
        "ours": distil(place, "by-ours", "teacher.checkpoint=ours/teacher.onnx"),
        "file": distil(place, "by-file", "teacher=onnx", "teacher.file=net.onnx"),
    }
    worth = {name: next(line for line in finished.out.splitlines() if line.startswith("teacher: top-1")) for name, finished in said.items()}
    assert worth["net"] == worth["ours"] == worth["file"]
    students = {name: distillctl.load(place / f"by-{name}")(images).logits.detach() for name in said}
    teacher = {"net": place / "run", "ours": place / "ours" / "teacher.onnx"}
    taught = {name: distillctl.load(path)(images).logits.detach() for name, path in teacher.items()}
    assert (taught["net"] - taught["ours"]).abs().max() < 1e-3
    assert top_k_accuracy(students["net"], labels, 1) > 0.5
    for name in ("ours", "file"):
        assert agreement(students[name], students["net"]) > 0.93, name
        assert abs(top_k_accuracy(students[name], labels, 1) - top_k_accuracy(students["net"], labels, 1)) < 0.05, name
    tables = {name: rows_of(place, f"by-{name}") for name in said}
    assert tables["ours"]["teacher"]["top1"] == tables["net"]["teacher"]["top1"] == tables["file"]["teacher"]["top1"]
    for name in ("ours", "file"):
        assert tables[name]["teacher"]["parameters"] == pytest.approx(
            tables["net"]["teacher"]["parameters"], rel=0.02
        )  # batch norm is folded
    assert tables["ours"]["teacher"]["macs"] == tables["net"]["teacher"]["macs"]
    assert [tables[name]["teacher"]["architecture"] for name in said] == ["resnet20", "resnet20", "onnx"]
    for run, file in (("by-ours", place / "ours" / "teacher.onnx"), ("by-file", place / "net.onnx")):
        assert record_of(place, run)["parents"]["teacher"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert not [name for name in load_file(place / run / "distill" / "student.safetensors") if "digest" in name]


def test_a_perceptron_of_another_library_teaches(place, digits):
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    known = load_digits()
    net = MLPClassifier((32,), max_iter=40, random_state=0).fit(known.data / 16, known.target)
    dense(place / "sklearn.onnx", list(zip(net.coefs_, net.intercepts_, strict=True)), ["n", 64], softmax=True)
    words = ("teacher=onnx", "teacher.file=sklearn.onnx", "teacher.mean=[0,0,0]", "teacher.std=[1,1,1]")
    finished = distil(place, "by-sklearn", *words)
    line = "teacher.file=sklearn.onnx: it answers with probabilities; their logarithms are taken as logits"
    assert finished.out.count(line) == 1
    rows = rows_of(place, "by-sklearn")
    assert rows["teacher"]["top1"] > 0.9
    assert rows["distilled"]["agreement"] > 0.5
    assert rows["teacher"]["parameters"] == 64 * 32 + 32 + 32 * 10 + 10


def test_answers_of_a_file_are_kept_and_found_by_its_content_alone(place):
    kept = ("teacher=onnx", "dataset.views=1", "teacher.cache.dir=kept")
    first = distil(place, "keeping", *kept, "teacher.file=net.onnx")
    assert "0 are there and 1,294 to be asked for" in first.out
    shutil.copy(place / "net.onnx", place / "renamed.onnx")
    again = distil(place, "kept-again", *kept, "teacher.file=renamed.onnx")
    assert "1,294 are there and 0 to be asked for" in again.out
    assert record_of(place, "keeping")["sha256"] == record_of(place, "kept-again")["sha256"]
    other = distil(place, "kept-other", *kept, "teacher.file=net.onnx", "teacher.mean=[0,0,0]")
    assert "0 are there and 1,294 to be asked for" in other.out
    [parts] = {json.loads(file.read_text())["parts"]["weights"] for file in (place / "kept").glob("*/cache.json")}
    assert parts == record_of(place, "keeping")["parents"]["teacher"]
    require = distil(place, "required", *kept, "teacher.file=net.onnx", "teacher.cache.mode=require")
    assert "all answers are read" in require.out


def test_an_ensemble_has_files_among_its_members(place):
    members = (
        "teacher.members.a=onnx",
        "teacher.members.a.file=net.onnx",
        "teacher.members.b=resnet20",
        "teacher.members.b.checkpoint=run",
        "teacher.members.c.checkpoint=ours/teacher.onnx",
    )
    distil(place, "by-three", "teacher=ensemble", *members)
    rows = rows_of(place, "by-three")
    assert rows["teacher"]["architecture"] == "onnx + resnet20 + resnet20"
    assert rows["teacher a"]["top1"] == rows["teacher b"]["top1"] == rows["teacher c"]["top1"] == rows["teacher"]["top1"]


def test_train_takes_a_file_as_a_teacher_that_is_ready(place):
    finished = call(
        "train", *TINY[1:], "baseline=false", "dataset=digits", "teacher=onnx", "teacher.file=net.onnx", "hydra.run.dir=whole", cwd=place
    )
    assert finished.code == 0, finished.err
    assert [row["name"] for row in json.loads((place / "whole" / "run.json").read_text())["plan"]["rows"]] == ["teacher", "distilled"]
    assert not (place / "whole" / "pretrain").exists()


def test_a_file_of_ours_says_which_data_it_learned_from(place):
    finished = call("distill", *DISTIL[:-1], "teacher.checkpoint=ours/teacher.onnx", "--plan", cwd=place)
    assert finished.code == 0, finished.err
    assert "digits" in finished.out


def test_a_file_is_measured_by_evaluate(place):
    known = call("evaluate", "checkpoint=run", "dataset=digits", "trainer.device=cpu", "hydra.run.dir=e1", cwd=place)
    ours = call("evaluate", "checkpoint=ours/teacher.onnx", "dataset=digits", "trainer.device=cpu", "hydra.run.dir=e2", cwd=place)
    other = call("evaluate", "checkpoint=net.onnx", "model=onnx", "dataset=digits", "trainer.device=cpu", "hydra.run.dir=e3", cwd=place)
    assert (known.code, ours.code, other.code) == (0, 0, 0), ours.err + other.err
    found = [json.loads((place / name / "evaluation.json").read_text())["measured"]["top1"] for name in ("e1", "e2", "e3")]
    assert found[0] == found[1] == found[2]


def graph(file: Path, shape, outputs=(("y", ["n", 10]),), kind=TensorProto.FLOAT, inputs=("x",), value=None) -> None:
    """A net that answers with zeros, or with another value, whatever it is given."""
    nodes = []
    for name, sides in outputs:
        constant = np.full(sides[1:], 0 if value is None else value, np.float32)
        nodes += [
            helper.make_node("Constant", [], [f"{name}-c"], value=onnx.numpy_helper.from_array(constant)),
            helper.make_node("Cast", ["x"], [f"{name}-f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", [f"{name}-f"], [f"{name}-m"], axes=list(range(1, len(shape))), keepdims=0),
            helper.make_node("Unsqueeze", [f"{name}-m", "last"], [f"{name}-u"]),
            helper.make_node("Mul", [f"{name}-u", "zero"], [f"{name}-z"]),
            helper.make_node("Add", [f"{name}-z", f"{name}-c"], [name]),
        ]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name, sides in outputs],
        [
            onnx.numpy_helper.from_array(np.array([1], np.int64), "last"),
            onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, file)


@pytest.fixture(scope="module")
def bad(place) -> Path:
    """Files that cannot teach digits."""
    (place / "text.onnx").write_text("PyTorch is not here")
    (place / "empty.onnx").write_bytes(b"")
    (place / "cut.onnx").write_bytes((place / "net.onnx").read_bytes()[:-1000])
    (place / "folder.onnx").mkdir()
    square = ["n", 3, 8, 8]
    graph(place / "seven.onnx", square, (("y", ["n", 7]),))
    graph(place / "two-in.onnx", square, inputs=("x", "mask"))
    graph(place / "two-out.onnx", square, (("y", ["n", 10]), ("z", ["n", 4])))
    graph(place / "deep.onnx", ["n", 5, 8, 8])
    graph(place / "wide.onnx", ["n", 3, 8, 16])
    graph(place / "whole.onnx", ["n", 8, 8, 3], kind=TensorProto.UINT8)
    graph(place / "int.onnx", square, kind=TensorProto.INT32)
    graph(place / "nan.onnx", square, value=np.nan)
    graph(place / "fits.onnx", square)
    graph(place / "nine.onnx", ["n", 3, 9, 9])
    model = onnx.load(place / "net.onnx")
    onnx.save(model, place / "parted.onnx", save_as_external_data=True, location="parted.data", size_threshold=0)
    return place


FILE = "teacher=onnx teacher.file="
BAD = [
    ("distill", "teacher=onnx", 2, "teacher.file is not set: pass teacher.file=<file.onnx>"),
    ("distill", f"{FILE}nowhere.onnx", 4, "teacher.file=nowhere.onnx: no such file"),
    ("distill", f"{FILE}folder.onnx", 4, "teacher.file=folder.onnx"),
    ("distill", f"{FILE}text.onnx", 4, "teacher.file=text.onnx: no ONNX model that can be run here"),
    ("distill", f"{FILE}empty.onnx", 4, "teacher.file=empty.onnx: no ONNX model that can be run here"),
    ("distill", f"{FILE}cut.onnx", 4, "teacher.file=cut.onnx: no ONNX model that can be run here"),
    ("distill", f"{FILE}parted.onnx", 4, "export it into one file"),
    ("distill", f"{FILE}run/pretrain/teacher.safetensors", 4, "teacher=onnx runs .onnx files"),
    ("distill", f"{FILE}net.onnx teacher.checkpoint=run", 2, "are two models; give one of them"),
    ("distill", "teacher=resnet20 teacher.file=net.onnx", 2, "is a whole net, and teacher=resnet20 names another; pass teacher=onnx"),
    ("distill", f"{FILE}net.onnx teacher.new_head=true", 2, "teacher.new_head: a file that another framework exported stays as it is"),
    ("distill", f"{FILE}net.onnx teacher.pretrained=true", 2, "teacher.pretrained: a file"),
    ("distill", f"{FILE}net.onnx +teacher.args.depth=2", 2, "teacher.args: a file"),
    ("distill", f"{FILE}nine.onnx teacher.image_size=16", 2, "teacher.image_size=16: teacher.file=nine.onnx takes 9 px alone"),
    ("distill", f"{FILE}whole.onnx teacher.mean=[0,0,0]", 2, "whole.onnx takes images as they are, and normalises them itself"),
    ("distill", f"{FILE}seven.onnx", 4, "it answers with 7 numbers an image, and the data set has 10 classes"),
    ("distill", f"{FILE}two-in.onnx", 4, "it takes 2 inputs (x, mask), and a classifier takes one"),
    ("distill", f"{FILE}two-out.onnx", 4, "which of its outputs are logits"),
    ("distill", f"{FILE}deep.onnx", 4, "its input x is tensor(float)"),
    ("distill", f"{FILE}wide.onnx", 4, "8 x 16 px, and images here are squares"),
    ("distill", f"{FILE}int.onnx", 4, "its input x is tensor(int32)"),
    ("distill", f"{FILE}nan.onnx", 4, "its answers to plain images are no finite numbers"),
    ("distill", f"{FILE}net.onnx loss=at", 2, "of it is read; give the .safetensors"),
    ("distill", "teacher.checkpoint=ours/teacher.onnx loss=at", 2, "an exported file answers with logits alone"),
    ("distill", "teacher.checkpoint=ours/teacher.onnx teacher.new_head=true", 2, "leave teacher.new_head out, or give the .safetensors"),
    ("distill", "teacher.checkpoint=net.onnx", 4, "take it as it is: teacher=onnx teacher.file="),
    ("distill", f"{FILE}net.onnx method=simkd", 2, "teacher"),
    ("distill", "teacher.checkpoint=run student=onnx", 2, "student=onnx: an exported file cannot learn"),
    ("distill", "teacher.checkpoint=run student.checkpoint=ours/teacher.onnx student=recorded", 2, "cannot learn, and distill would train it"),
    ("distill", "teacher.checkpoint=run assistants=[onnx]", 2, "onnx"),
    ("pretrain", f"{FILE}net.onnx", 2, "teacher.file=net.onnx: an exported file cannot learn, and pretrain would train it"),
    ("pretrain", "teacher=recorded teacher.checkpoint=ours/teacher.onnx", 2, "cannot learn, and pretrain would train it"),
    ("finetune", "student.checkpoint=ours/teacher.onnx", 2, "student.checkpoint=ours/teacher.onnx: an exported file cannot learn"),
    ("finetune", "student.file=net.onnx", 2, "student.file=net.onnx"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "code", "line"), BAD, ids=[f"{case[0]} {case[1]}" for case in BAD])
def test_what_cannot_be_is_one_line_before_anything_is_trained(command, words, code, line, bad):
    folder = bad / "refused"
    shutil.rmtree(folder, ignore_errors=True)
    given = [*DISTIL[1:]] if command == "distill" and "student=" in words else [*DISTIL]
    given = [word for word in given if command == "distill" or not word.startswith(("student=", "distill."))]
    finished = call(command, *given, *words.split(), "hydra.run.dir=refused", cwd=bad)
    assert finished.code == code, finished.err + finished.out
    said = finished.err.strip().splitlines()
    assert len(said) == 1, finished.err
    assert line in said[0]
    assert "epoch" not in finished.out
    assert not list(folder.glob("*/student.safetensors"))


def test_a_file_is_offered_where_it_can_be(place):
    from distillctl.compose.sources import ModelNames

    source = ModelNames("test", "models://")
    assert [role for role in ("teacher", "student", "model") if "onnx" in source.list(role, None)] == ["teacher", "model"]
