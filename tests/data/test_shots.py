"""Few labels: exactly so many training images of each class, and nothing else moves."""

import pytest
import torch

from distillctl.config import FitConfig, ImageSetConfig, check
from distillctl.data.cutting import cut, few
from distillctl.data.image.sets import load
from distillctl.data.split import UNLABELLED, whole
from distillctl.errors import DataError


def digits(**config):
    return load(ImageSetConfig(name="digits", **config))


def chosen(data):
    return set(data.train.index.tolist())


@pytest.mark.parametrize("shots", [1, 7])
def test_each_class_has_exactly_so_many(shots):
    data = digits(shots=shots)
    assert data.train.sizes(10) == [shots] * 10
    assert data.train.labelled
    assert len(data.train.inputs) == 10 * shots


def test_validation_and_test_stay_the_images_that_they_were():
    plain, small = digits(), digits(shots=3)
    assert torch.equal(plain.test.index, small.test.index)
    assert torch.equal(plain.test.targets, small.test.targets)
    assert torch.equal(plain.val.index, small.val.index)
    assert not chosen(small) & set(plain.val.index.tolist())
    assert chosen(small) < chosen(plain)


def test_validation_images_cut_out_of_train_lose_their_labels():
    assert digits().val.labelled
    small = digits(shots=3)
    assert set(small.val.targets.tolist()) == {UNLABELLED}
    assert small.test.labelled


def test_the_choice_follows_the_split_seed():
    assert chosen(digits(shots=3)) == chosen(digits(shots=3))
    assert chosen(digits(shots=3)) != chosen(digits(shots=3, split_seed=1))


def test_fewer_shots_are_among_more():
    assert chosen(digits(shots=2)) < chosen(digits(shots=5))


def test_shots_are_part_of_the_fingerprint():
    marks = [digits(**config).fingerprint for config in ({}, {"shots": 2}, {"shots": 3}, {"shots": 3, "split_seed": 1})]
    assert len(set(marks)) == len(marks)


def test_a_whole_class_can_be_taken():
    source = whole(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 1, 1, 1]))
    assert few(source, 2, ("ant", "bee"), "key").sizes(2) == [2, 2]
    assert few(source, 2, ("ant", "bee"), "key").targets.tolist() == [0, 0, 1, 1]


def test_a_class_with_fewer_is_named_with_its_count():
    source = whole(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 1]))
    with pytest.raises(DataError, match=r"^dataset\.shots=2: class bee has 1 training image; "):
        few(source, 2, ("ant", "bee"), "key")
    with pytest.raises(DataError, match=r"^dataset\.shots=1000: class 0 has 1\d\d training images; "):
        digits(shots=1000)


def test_images_without_labels_are_cut_as_one_class():
    source = whole(torch.zeros(9, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])).without_labels()
    left, part = cut(source, 3, 1, "key")
    assert (len(left), len(part)) == (6, 3)
    assert sorted(left.index.tolist() + part.index.tolist()) == list(range(9))
    assert not part.labelled
    assert not left.labelled


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"shots": 5, "subset": 100}, ("dataset.shots=5", "dataset.subset=100", "one of them")),
        ({"shots": 5, "labels": False}, ("dataset.shots=5", "dataset.labels=false", "dataset.subset")),
        ({"shots": 0}, ("dataset.shots=0 must be >= 1",)),
    ],
)
def test_what_does_not_go_together_is_one_line(dataset, words):
    [problem] = check(FitConfig(dataset=ImageSetConfig(name="digits", **dataset)))
    assert "\n" not in problem
    assert all(word in problem for word in words), problem
