"""Files of answers that cannot teach: each is one line that names the place."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_answer_files import CALLED, CLASSES, PETS, answers, split

from distillctl.errors import DataError
from distillctl.teachers.answers.writing import write

BAD = [
    ("a.csv", "", "an empty file"),
    ("a.csv", " \n\n", "an empty file"),
    ("a.csv", "row,cat,dog,owl\n", "holds no answers"),
    ("a.csv", "cat,dog,owl\n1,2,3\n", "no column names the samples; call one row, path or id"),
    ("a.csv", "row,path,label\n1,x,cat\n", "row and path both name the samples; leave one column out"),
    ("a.csv", "row\n1\n", "names samples and holds no answers"),
    ("a.csv", "row,cat,cat,owl\n1,2,3,4\n", "two columns are called 'cat'"),
    ("a.csv", "row,cat,dog,owl\n0,1,2,3\n2,1,2\n", ", line 3: 3 values, and the header has 4 columns"),
    ("a.csv", "row,cat,dog,owl\n0,1,2,3,4\n", ", line 2: 5 values, and the header has 4 columns"),
    ("a.csv", "row,cat,dog\n0,1,2\n", "no column for class 'owl'; every class needs one"),
    ("a.csv", "row,cat,dog,owl,cow\n0,1,2,3,4\n", "its column 'cow' is no class of pets; did you mean owl?"),
    ("a.csv", "row,cat,dog,owl\n0,1,nan,3\n", ", line 2: dog=nan is no finite number"),
    ("a.csv", "row,cat,dog,owl\n0,1,2,3\n2,1,inf,3\n", ", line 3: dog=inf is no finite number"),
    ("a.csv", "row,cat,dog,owl\n0,1,1e39,3\n", ", line 2: dog=1e39 is no finite number"),
    ("a.csv", "row,cat,dog,owl\n0,1,,3\n", ", line 2: dog=nothing is no finite number"),
    ("a.csv", "row,cat,dog,owl\n0,1,much,3\n", ", line 2: dog=much is no finite number"),
    ("a.csv", "row,cat,dog,owl\n0,0.5,0.25,0.25\n2,0.5,0.25,0.2\n", ", line 3: the probabilities sum to 0.95, not 1; of logits say so: teacher.answers=logits"),
    ("a.csv", "row,cat,dog,owl\n0,0.5,0.25,0.1\n", ", line 2: the probabilities sum to 0.85, not 1"),
    ("a.csv", "row,cat,dog,owl\n0,0.5,0.5,0\n2,1.2,-0.2,0\n", ", line 3: dog=-0.2 is below 0"),
    ("a.csv", "row,label\n-1,cat\n", ", line 2: row=-1 is no whole number from 0"),
    ("a.csv", "row,label\n1.5,cat\n", ", line 2: row=1.5 is no whole number from 0"),
    ("a.csv", "row,label\n,cat\n", ", line 2: row= is no whole number from 0"),
    ("a.csv", "row,label\n0,cat\n5,cat\n", ", line 3: row=5 is out of range: pets has 5 samples to train on, row 0 the first"),
    ("a.csv", "row,label\n0,cat\n2,dog\n0,cat\n", ", line 4: row=0 was answered before, in line 2"),
    ("a.csv", "row,label\n0,cat\n2,dgo\n", ", line 3: 'dgo' is no class of pets; did you mean dog?"),
    ("a.csv", "row,label\n0,\n", ", line 2: label='' is no name of a class"),
    ("a.csv", "row,label,confidence\n0,cat,0\n", ", line 2: confidence=0 is no probability above 0 and at most 1"),
    ("a.csv", "row,label,confidence\n0,cat,1.5\n", ", line 2: confidence=1.5 is no probability above 0 and at most 1"),
    ("a.csv", "row,label,confidence\n0,cat,sure\n", ", line 2: confidence=sure is no finite number"),
    ("a.csv", "row,label,owl\n0,cat,0.5\n", "column 'owl' beside label"),
    ("a.csv", "row,label\n1,cat\n", "none of its 1 answers is about a training sample"),
    ("a.csv", 'row,label\n0,"cat\n', ", line 2: unexpected end of data"),
    ("a.csv", "path,label\nb/3.png,cat\n", "names samples by path, and those of pets have no names; name them by row"),
    ("a.jsonl", '{"row": 0, "label": "cat"}\n{"row": 2, "label"\n', ", line 2: no JSON"),
    ("a.jsonl", "[0, 1]\n", ", line 1: no JSON object"),
    ("a.jsonl", '{"row": 0, "cat": NaN, "dog": 1, "owl": 2}\n', ", line 1: no JSON (NaN is no number of JSON)"),
    ("a.jsonl", '{"row": true, "label": "cat"}\n', ", line 1: row=True is no whole number from 0"),
    ("a.jsonl", '{"row": 0, "label": ["cat"]}\n', ", line 1: label=['cat'] is no name of a class"),
    ("a.jsonl", '{"row": 0, "label": "cat"}\n{"row": 2, "dog": 1}\n', ", line 2: lacks label, unlike the first line (row, label)"),
    ("a.jsonl", '{"row": 0, "cat": 1, "dog": 1, "owl": true}\n', ", line 1: owl=True is no finite number"),
    ("a.jsonl", '{"row": 0, "logprobs": {}}\n', ", line 1: logprobs has to be an object of a class or more"),
    ("a.jsonl", '{"row": 0, "logprobs": {"cat": "x"}}\n', ", line 1: cat=x is no finite number"),
    ("a.jsonl", '{"row": 0, "logprobs": {"cat": -0.1, "dog": -0.2}}\n', ", line 1: the probabilities sum to 1.724, which is more than 1"),
    ("a.jsonl", '{"row": 0, "logprobs": {"cat": -3, "dog": -2, "owl": -3}}\n', ", line 1: the probabilities of all classes sum to 0.2349, not 1"),
    ("a.jsonl", '{"row": 0, "logprobs": {"cow": -0.1}}\n', ", line 1: 'cow' is no class of pets"),
    ("a.jsonl", '{"row": 0, "logprobs": {"cat": -1}}\n{"row": 2, "label": "cat"}\n', ", line 2: has label, row, unlike the first line (row, logprobs)"),
    ("a.jsonl", '{"label": "cat"}\n', ", line 1: no column names the samples"),
]  # fmt: skip


def refused(file: Path, data=PETS, **keys) -> str:
    with pytest.raises(DataError) as problem:
        answers(file, data, **keys)
    said = str(problem.value)
    assert len(said.splitlines()) == 1, said
    assert said.startswith(f"teacher.file={file}"), said
    return said


@pytest.mark.parametrize(("name", "content", "line"), BAD, ids=[f"{number} {case[1][:30]!r}" for number, case in enumerate(BAD)])
def test_text_that_cannot_teach_is_one_line_with_its_place(name, content, line, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    assert line in refused(file)


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"row,label\n0,cat\n2,caf\xe9\n")
    assert refused(tmp_path / "a.csv").endswith(", line 3: no UTF-8; save it so")


def test_a_file_that_is_not_there_a_folder_and_a_pipe_are_one_line(tmp_path):
    import os

    assert refused(tmp_path / "none.csv").endswith("no such file")
    (tmp_path / "a.csv").mkdir()
    assert "a folder" in refused(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "b.csv")
    assert "a named pipe" in refused(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("b/9.png,cat", "line 3: path=b/9.png is no sample of pets; they are called as a/0.png"),
        ("3.png,cat", "line 3: path=3.png is no sample of pets; did you mean b/3.png?"),
        (",cat", "line 3: path='' is no name of a sample"),
        ("./b/4.png,cat", "line 3: path=b/4.png was answered before, in line 2"),
    ],
)
def test_names_of_no_sample_are_one_line(line, said, tmp_path):
    (tmp_path / "a.csv").write_text(f"path,label\nb/4.png,owl\n{line}\n")
    assert said in refused(tmp_path / "a.csv", CALLED)


def test_a_training_source_of_unknown_size_refuses_rows_beyond_all_reason(tmp_path):
    (tmp_path / "a.csv").write_text("row,label\n0,cat\n999999999999,cat\n")
    assert "line 3: row=999999999999 is out of range" in refused(tmp_path / "a.csv", replace(PETS, source=None))


WHOLE = {"logits": np.zeros((2, 3)), "classes": np.array(CLASSES), "row": np.array([0, 2])}
ARRAYS = [
    ({"logits": None}, "holds classes and row, and has to have one of logits and probabilities"),
    ({"probabilities": np.zeros((2, 3))}, "has to have one of logits and probabilities"),
    ({"classes": None}, "lacks the array classes"),
    ({"row": None}, "no column names the samples"),
    ({"logits": np.zeros((2, 4))}, "logits is [2, 4], of 2 samples (row) and 3 classes"),
    ({"logits": np.zeros(6)}, "logits is float64 [6], and has to be numbers [samples, classes]"),
    ({"logits": np.full((2, 3), np.nan)}, ", entry 0: logits has a number that is not finite"),
    ({"logits": np.full((2, 3), 1e300)}, ", entry 0: logits has a number that is not finite"),
    ({"row": np.array([0.0, 2.0])}, "row is float64 [2], and has to be whole numbers [samples]"),
    ({"row": np.array([0, -2])}, ", entry 1: row=-2 is no whole number from 0"),
    ({"row": np.array([0, 7])}, ", entry 1: row=7 is out of range"),
    ({"row": np.array([2, 2])}, ", entry 1: row=2 was answered before, in entry 0"),
    ({"classes": np.array(["cat", "dog", "cow"])}, "its column 'cow' is no class of pets"),
    ({"classes": np.array(["cat", "dog", "dog"])}, "class 'dog' is named twice"),
    ({"classes": np.array([1.5, 2, 3])}, "classes is float64 [3], and has to be texts [classes]"),
    ({"classes": np.array(CLASSES, dtype=object)}, "holds Python objects, which are not loaded; save texts as np.array(names, dtype=str)"),
    ({"logits": None, "probabilities": np.full((2, 3), 0.5)}, ", entry 0: the probabilities sum to 1.5, not 1"),
    ({"logits": np.zeros((0, 3)), "row": np.zeros(0, np.int64)}, "holds no answers"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "line"), ARRAYS, ids=[str(number) for number in range(len(ARRAYS))])
def test_arrays_that_cannot_teach_are_one_line(changed, line, tmp_path):
    held = {name: value for name, value in {**WHOLE, **changed}.items() if value is not None}
    np.savez(tmp_path / "a.npz", **held)
    assert line in refused(tmp_path / "a.npz")


def test_a_name_that_contradicts_the_config_is_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", **WHOLE)
    assert "its array is called logits, and teacher.answers=probabilities" in refused(tmp_path / "a.npz", answers="probabilities")


class Trap:
    """Pickled, it would run code where it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_nothing_in_an_npz_runs_code(tmp_path):
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "ran")
    np.savez(tmp_path / "a.npz", **{**WHOLE, "classes": trap})
    assert "Python objects" in refused(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    assert "no .npz that can be read" in refused(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as held:
        held.writestr("logits.npy", pickle.dumps(Trap(tmp_path / "ran")))
    refused(tmp_path / "c.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_that_was_cut_off_is_one_line(kept, suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"a{suffix}"
    write(file, "row", [0, 2], CLASSES, np.zeros((2, 3), np.float32))
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    assert "that can be read" in refused(file)


def test_columns_of_parquet_that_are_no_numbers_are_one_line(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for cat, said in (([[1.0], [2.0]], "cat=[1.0] is no finite number"), ([None, 1.0], "line 1: cat=None is no finite number")):
        parquet.write_table(pyarrow.table({"row": [0, 2], "cat": cat, "dog": [1.0, 2.0], "owl": [1.0, 2.0]}), tmp_path / "a.parquet")
        assert said in refused(tmp_path / "a.parquet")


def test_without_pyarrow_parquet_is_one_line_with_the_extra(tmp_path, monkeypatch):
    from distillctl.errors import MachineError

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MachineError, match=r"pip install 'distillctl\[parquet\]'"):
        answers(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("suffix", "classes", "samples", "said"),
    [
        (".csv", ("=cat", "dog", "owl"), [0], "'=cat' would be no plain text in a spreadsheet; write an .npz or a .jsonl"),
        (".csv", CLASSES, ["@a.png"], "'@a.png' would be no plain text in a spreadsheet"),
        (".jsonl", ("label", "dog", "owl"), [0], "class 'label' is called as a column that says something else; write an .npz"),
    ],
)
def test_names_that_a_format_cannot_hold_are_refused_before_anything_is_written(suffix, classes, samples, said, tmp_path):
    file = tmp_path / f"a{suffix}"
    with pytest.raises(DataError) as problem:
        write(file, "row" if samples == [0] else "path", samples, classes, np.zeros((1, 3), np.float32))
    assert said in str(problem.value)
    assert not file.exists()


def test_a_used_part_of_a_set_may_be_answered_beyond_it(tmp_path):
    from distillctl.config import DatasetConfig, TeacherConfig
    from distillctl.teachers.answers.matching import match
    from distillctl.teachers.answers.table import read

    (tmp_path / "a.csv").write_text("path,label\nb/4.png,owl\nb/5.png,cat\n")
    table = read(TeacherConfig(name="answers", file=str(tmp_path / "a.csv")))
    few = replace(CALLED, train=split(4, names=["b/4.png"]))
    assert match(table, few, DatasetConfig(name="pets", subset=4)).unused() == 1
