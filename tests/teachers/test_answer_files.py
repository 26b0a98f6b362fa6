"""Answers in files: each form becomes the logits that it means, whose sample and class they are is found by name, and what is written comes back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distillctl.config import DatasetConfig, TeacherConfig
from distillctl.data.split import DataSet, Source, Split
from distillctl.teachers.answers import forms
from distillctl.teachers.answers.known import FromFile
from distillctl.teachers.answers.matching import match
from distillctl.teachers.answers.table import read
from distillctl.teachers.answers.writing import write
from distillctl.types import Batch

CLASSES = ("cat", "dog", "owl")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".npz")
TINY = math.log(np.finfo(np.float32).tiny)


def split(*index: int, names: list[str] | None = None) -> Split:
    return Split(torch.zeros(len(index), 2), torch.tensor([number % 3 for number in index]), torch.tensor(index), names)


# of five samples to train on, 1 is for validation; the test split comes from elsewhere
PETS = DataSet("pets", CLASSES, split(0, 2, 3, 4), split(1), split(0, 1), "mark", [], source=Source(5, ("val",)))
CALLED = replace(
    PETS,
    train=split(0, 2, 3, 4, names=["a/0.png", "a/2.png", "b/3.png", "b/4.png"]),
    val=split(1, names=["a/1.png"]),
    test=split(0, 1, names=["t/0.png", "t/1.png"]),
)


def answers(file, data: DataSet = PETS, **keys):
    return match(read(TeacherConfig(name="answers", file=str(file), **keys)), data, DatasetConfig(name="pets"))


@pytest.fixture
def told(tmp_path):
    """`told("row,cat,dog,owl\\n...")`: what a file of these lines knows of the pets."""

    def known(content: str, name: str = "answers.csv", data: DataSet = PETS, **keys):
        (tmp_path / name).write_text(content)
        return answers(tmp_path / name, data, **keys)

    return known


# ------------------------------------------------------------------------------------------------ forms
def test_probabilities_become_their_logarithms_and_a_zero_the_least_that_has_one(told):
    found = told("row,cat,dog,owl\n3,0.25,0.75,0\n").logits[0]
    assert found.tolist() == pytest.approx([math.log(0.25), math.log(0.75), TINY], rel=1e-6)
    assert found.softmax(0).tolist() == pytest.approx([0.25, 0.75, 0.0], abs=1e-7)


def test_numbers_that_are_no_probabilities_are_logits_as_they_are(told):
    assert told("row,cat,dog,owl\n3,-1.5,2,0.25\n").logits.tolist() == [[-1.5, 2.0, 0.25]]


def test_logits_that_look_like_probabilities_are_taken_as_what_is_said(told):
    line = "row,cat,dog,owl\n3,0.25,0.75,0\n"
    assert told(line, answers="logits").logits.tolist() == [[0.25, 0.75, 0.0]]


def test_a_label_with_a_confidence_leaves_the_rest_to_the_others_alike(told):
    found = told("row,label,confidence\n0,dog,0.9\n2,owl,1\n").logits
    assert found[0].exp().tolist() == pytest.approx([0.05, 0.9, 0.05])
    assert found[1].tolist() == pytest.approx([TINY, TINY, 0.0])


def test_a_label_without_a_confidence_has_the_one_that_the_config_gives(told):
    assert told("row,label\n0,dog\n").logits[0].tolist() == pytest.approx([TINY, 0.0, TINY])
    assert told("row,label,confidence\n0,dog,\n", confidence=0.8).logits[0].exp().tolist() == pytest.approx([0.1, 0.8, 0.1])


def test_the_likeliest_classes_keep_what_they_have_and_the_others_share_the_rest(told):
    line = json.dumps({"row": 2, "logprobs": {"owl": math.log(0.6), "cat": math.log(0.3)}})
    assert told(f"{line}\n", "answers.jsonl").logits[0].exp().tolist() == pytest.approx([0.3, 0.1, 0.6])


def test_an_impossible_class_of_a_service_is_as_unlikely_as_a_number_can_be(told):
    line = json.dumps({"row": 2, "logprobs": {"owl": 0.0, "cat": -9999}})
    assert told(f"{line}\n", "answers.jsonl").logits[0].tolist() == pytest.approx([TINY, TINY, 0.0])


@given(arrays.arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)), st.integers(1, 5))
def test_completed_answers_are_distributions(weights, count):
    shares = (weights + 0.01) / (weights + 0.01).sum(1, keepdims=True)
    some = np.log(shares[:, :count])
    whole = forms.completed(some, range(count), 5 if count == 5 else 8)
    assert np.exp(whole.astype(np.float64)).sum(1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(whole[:, :count], some)


# ------------------------------------------------------------------------------------------------ whose
def test_columns_stand_in_any_order_and_come_into_that_of_the_data(told):
    assert told("owl,row,cat,dog\n3,4,1,2\n").logits.tolist() == [[1.0, 2.0, 3.0]]


def test_a_row_is_a_place_in_the_training_source_whatever_was_cut_out_of_it(told):
    found = told("row,label\n4,owl\n1,dog\n")
    assert found.places["train"].tolist() == [-1, -1, -1, 0]
    assert found.places["val"].tolist() == [1]
    assert found.places["test"].tolist() == [-1, -1]  # it comes from elsewhere
    assert found.of("val").argmax(1).tolist() == [1]
    assert found.of("test") is None
    assert found.of("train") is None


@pytest.mark.parametrize("key", ["path", "id"])
def test_a_name_is_one_of_a_sample_in_any_split(key, told):
    found = told(f"{key},label\nt/1.png,owl\n./b/3.png,cat\nt/0.png,dog\n", data=CALLED)
    assert found.places["train"].tolist() == [-1, -1, 1, -1]
    assert found.of("test").argmax(1).tolist() == [1, 2]


def test_an_accent_is_the_same_in_either_form(told):
    data = replace(CALLED, classes=("caf\u00e9", "dog", "owl"), train=split(0, names=["\u00e9.png"]))
    found = told("path,label\ne\u0301.png,cafe\u0301\n", data=data)
    assert found.of("train").argmax(1).tolist() == [0]


def test_answers_about_samples_that_are_in_no_split_are_counted(told):
    few = replace(PETS, train=split(0, 2))
    assert told("row,label\n0,cat\n3,dog\n4,owl\n", data=few).unused() == 2


def test_the_teacher_answers_each_view_of_a_sample_alike_and_says_which_samples_it_knows(told):
    teacher = FromFile(told("row,cat,dog,owl\n4,1,2,3\n0,4,5,6\n"), torch.float32, torch.device("cpu"))
    index = torch.tensor([4, 2, 0])
    for view in (0, 7):
        answer = teacher(Batch(torch.rand(3, 2), torch.zeros(3).long(), index, view))
        assert answer.logits.tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6]]
        assert answer.answered.tolist() == [True, False, True]


def test_a_teacher_who_knows_all_says_nothing_of_who_is_known(told):
    lines = "".join(f"{row},cat\n" for row in (0, 2, 3, 4))
    teacher = FromFile(told(f"row,label\n{lines}"), torch.float32, torch.device("cpu"))
    assert teacher(Batch(torch.rand(1, 2), torch.zeros(1).long(), torch.tensor([3]), 0)).answered is None


# ------------------------------------------------------------------------------------------------ files
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", ["row", "path"])
def test_what_is_written_comes_back_to_the_last_bit(suffix, key, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1e-6], [1.0], [30.0], [1e20]])
    samples = [0, 2, 3, 4] if key == "row" else list(CALLED.train.names)
    file = tmp_path / f"answers{suffix}"
    write(file, key, samples, CLASSES, logits.numpy())
    found = answers(file, CALLED)
    assert torch.equal(found.of("train"), logits)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_reads_probabilities_alike(suffix, tmp_path):
    values, file = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]), tmp_path / f"answers{suffix}"
    if suffix == ".npz":
        np.savez(file, probabilities=values, classes=np.array(CLASSES), row=np.array([3, 0]))
    elif suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pyarrow.table({"row": [3, 0], **dict(zip(CLASSES, values.T, strict=True))}), file
        )
    elif suffix == ".jsonl":
        file.write_text(
            "\n".join(json.dumps({"row": row, **dict(zip(CLASSES, each, strict=True))}) for row, each in ((3, values[0]), (0, values[1])))
        )
    else:
        mark = "," if suffix == ".csv" else "\t"
        file.write_text("\n".join(mark.join(map(str, line)) for line in (["row", *CLASSES], [3, *values[0]], [0, *values[1]])))
    assert answers(file).logits.softmax(1).numpy() == pytest.approx(values)


def test_a_file_that_changed_is_read_again(told):
    first = told("row,label\n0,cat\n")
    again = told("row,label\n0,dog\n2,dog\n")
    assert first.table.sha256 != again.table.sha256
    assert len(again.logits) == 2


def test_a_spreadsheet_s_byte_order_mark_empty_lines_and_quotes_are_no_matter(told):
    found = told('\ufeff"row", "cat", dog,owl\r\n\r\n"3",1,2,3\r\n')
    assert found.logits.tolist() == [[1.0, 2.0, 3.0]]
