"""Into which tasks a data set is divided: the order of classes, whose samples are whose, folders, and a head that grows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distillctl.config import ImageSetConfig
from distillctl.data.loader import Place
from distillctl.errors import ConfigError
from distillctl.runs import bundle as bundles
from distillctl.runs.lifelong.handover import extend
from distillctl.runs.lifelong.tasks import arranged, divided, groups_of, listed, of_folders, part_of
from distillctl.strategies.task import Task

NAMES = tuple("abcdefghij")
HERE = Place(torch.device("cpu"))


def asked(tasks=5, first=None, seed=0):
    """What a config says of tasks."""
    return SimpleNamespace(tasks=tasks, lifelong=SimpleNamespace(first=first, order_seed=seed, folders=[]))


# ------------------------------------------------------------------------------------------------- by number


@pytest.mark.parametrize("tasks", [2, 5, 10])
def test_each_task_has_as_many_classes_and_each_class_is_in_one(tasks):
    groups = divided(asked(tasks), 10)
    assert [len(group) for group in groups] == [10 // tasks] * tasks
    assert sorted(label for group in groups for label in group) == list(range(10))


def test_a_first_task_may_be_larger_and_the_others_share_the_rest():
    groups = divided(asked(5, first=2), 10)
    assert [len(group) for group in groups] == [2, 2, 2, 2, 2]
    groups = divided(asked(6, first=5), 10)
    assert [len(group) for group in groups] == [5, 1, 1, 1, 1, 1]
    assert sorted(label for group in groups for label in group) == list(range(10))


def test_the_order_is_a_function_of_its_seed_and_without_one_that_of_the_data_set():
    assert divided(asked(seed=None), 10) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert divided(asked(seed=3), 10) == divided(asked(seed=3), 10)
    orders = {str(divided(asked(seed=seed), 10)) for seed in range(20)}
    assert len(orders) == 20


def test_over_seeds_every_class_comes_in_every_place():
    """Chi-square of the class that comes first under 1,000 seeds: 9 degrees of freedom, 33.7 once in ten thousand times."""
    first = torch.tensor([divided(asked(seed=seed), 10)[0][0] for seed in range(1000)])
    counts = torch.bincount(first, minlength=10)
    assert float(((counts - 100.0) ** 2 / 100).sum()) < 33.7


@pytest.mark.parametrize(
    ("tasks", "first", "words"),
    [
        (3, None, "10 classes are not divided by 3; with 10 classes: tasks=2 or 5 or 10"),
        (11, None, "the data set has 10 classes, and each task needs one"),
        (4, 9, "the data set has 10 classes, and each task needs one"),
        (3, 5, "5 classes are not divided by 2"),
    ],
)
def test_what_does_not_divide_says_what_does(tasks, first, words):
    with pytest.raises(ConfigError, match=words):
        divided(asked(tasks, first), 10)


# ------------------------------------------------------------------------------------------------- by name


def test_tasks_by_name_are_as_they_are_written_whatever_the_seed():
    written = [["c", "a"], ["j"], ["b", "d", "e", "f", "g", "h", "i"]]
    assert groups_of(asked(written, seed=7), NAMES) == [[2, 0], [9], [1, 3, 4, 5, 6, 7, 8]]


def test_names_that_are_numbers_may_be_written_as_numbers():
    assert listed([[1, 0], ["2"]], ("0", "1", "2")) == [[1, 0], [2]]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([["a", "b"], ["b"]], "class b is in tasks 1 and 2"),
        ([["a", "a"], ["b"]], "class a is in tasks 1 and 1"),
        ([["a"], ["b"]], "no task has the classes c, d, e, f, g and 3 more"),
        ([["apple"], ["b"]], "task 1 has a class 'apple', which the data set has not"),
    ],
)
def test_what_is_wrong_with_names_is_said(tasks, words):
    with pytest.raises(ConfigError, match=words):
        listed(tasks, NAMES)


# ------------------------------------------------------------------------------------------------- a data set in that order


@pytest.fixture(scope="module")
def digits():
    return bundles.load(ImageSetConfig(name="digits"), 32, HERE)


def test_classes_are_numbered_as_they_come_and_no_sample_changes_its_class(digits):
    found = arranged(digits, asked(seed=4))
    tasks = found.tasks
    assert tasks.own == ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
    assert tasks.ends == (2, 4, 6, 8, 10)
    assert found.data.classes == tasks.classes == found.inputs.classes
    assert tasks.classes == tuple(digits.data.classes[label] for group in divided(asked(seed=4), 10) for label in group)
    for name in ("train", "val", "test"):
        before, after = digits.data.split(name), found.data.split(name)
        assert torch.equal(before.index, after.index)
        assert torch.equal(before.inputs, after.inputs)
        names = [digits.data.classes[label] for label in before.targets.tolist()]
        assert names == [tasks.classes[label] for label in after.targets.tolist()]


def test_each_sample_belongs_to_the_task_of_its_class(digits):
    found = arranged(digits, asked())
    test = found.data.test
    assert torch.equal(found.tasks.of(test), test.targets // 2 + 1)
    assert found.tasks.task(1) == Task(1, 5, 0, 2, 10)
    assert found.tasks.task(4) == Task(4, 5, 6, 8, 10)


def test_a_task_learns_its_own_samples_and_is_validated_on_all_so_far(digits):
    found = arranged(digits, asked())
    parts = [part_of(found, (number,), growing=False) for number in range(1, 6)]
    assert sum(len(part.data.train) for part in parts) == len(found.data.train)
    for number, part in enumerate(parts, start=1):
        assert set(part.data.train.targets.tolist()) == {2 * number - 2, 2 * number - 1}
        assert set(part.data.val.targets.tolist()) == set(range(2 * number))
        assert part.data.classes == found.data.classes
        assert len(part.data.test) == len(found.data.test)


def test_under_a_head_that_grows_a_task_knows_the_classes_so_far(digits):
    found = arranged(digits, asked())
    part = part_of(found, (3,), growing=True)
    assert part.data.classes == part.inputs.classes == found.tasks.classes[:6]
    together = part_of(found, (1, 2, 3, 4, 5), growing=True)
    assert together.data.classes == found.tasks.classes
    assert len(together.data.train) == len(found.data.train)


# ------------------------------------------------------------------------------------------------- a folder for each task


def folder(place, classes: str, seed: int, size: int = 8, count: int = 8):
    """Images whose first pixel says which folder they are of."""
    random = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name in classes.split():
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
                pixels[0, 0] = seed
                Image.fromarray(pixels).save(place / part / name / f"{number}.png")
    return bundles.load(ImageSetConfig(name="image_folder", root=str(place)), 4, HERE)


def test_folders_of_the_same_classes_are_domains(tmp_path):
    found = of_folders([folder(tmp_path / name, "ant bee", seed) for seed, name in enumerate(("clean", "dirty"), start=1)])
    tasks = found.tasks
    assert tasks.is_domains
    assert (tasks.classes, tasks.own, tasks.ends) == (("ant", "bee"), ((0, 1), (0, 1)), (2, 2))
    assert tasks.in_words() == ["tasks: 2 folders of the same 2 classes"]
    for name in ("train", "val", "test"):
        split = found.data.split(name)
        assert torch.equal(tasks.of(split), split.inputs[:, 0, 0, 0].long())
    assert set(part_of(found, (2,), False).data.train.inputs[:, 0, 0, 0].tolist()) == {2}


def test_folders_of_other_classes_bring_them_in_their_order(tmp_path):
    found = of_folders([folder(tmp_path / "one", "wasp fly", 1), folder(tmp_path / "two", "bee ant", 2)])
    assert found.data.classes == ("fly", "wasp", "ant", "bee")
    assert found.tasks.own == ((0, 1), (2, 3))
    assert not found.tasks.is_domains
    assert found.tasks.in_words() == ["task 1: fly, wasp", "task 2: ant, bee"]
    for name in ("train", "val", "test"):
        split = found.data.split(name)
        assert torch.equal(found.tasks.of(split), split.targets // 2 + 1)
        assert torch.equal(found.tasks.of(split), split.inputs[:, 0, 0, 0].long())


def test_a_class_may_come_again_with_new_ones(tmp_path):
    found = of_folders([folder(tmp_path / "one", "ant bee", 1), folder(tmp_path / "two", "bee wasp", 2)])
    assert found.data.classes == ("ant", "bee", "wasp")
    assert found.tasks.own == ((0, 1), (1, 2))
    assert found.tasks.ends == (2, 3)
    train = found.data.train
    assert torch.equal(found.tasks.of(train), train.inputs[:, 0, 0, 0].long())


def test_no_two_samples_of_folders_have_one_index_within_a_split(tmp_path):
    """Views and draws are functions of it."""
    found = of_folders([folder(tmp_path / name, "ant bee", seed) for seed, name in enumerate(("a", "b", "c"), start=1)])
    for name in ("train", "val", "test"):
        index = found.data.split(name).index.tolist()
        assert len(set(index)) == len(index)


def test_folders_of_other_sizes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="set dataset.image_size"):
        of_folders([folder(tmp_path / "one", "ant bee", 1), folder(tmp_path / "two", "ant bee", 2, size=16)])


# ------------------------------------------------------------------------------------------------- a head that grows


def test_a_head_that_grows_keeps_its_rows_and_has_fresh_ones_for_what_is_new():
    torch.manual_seed(0)
    small, large = (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, classes)) for classes in (3, 5))
    small(torch.randn(8, 4))
    fresh = {name: value.clone() for name, value in large.state_dict().items()}
    extend(large, small.state_dict(), 3, 5)
    before, after = small.state_dict(), large.state_dict()
    for name, value in after.items():
        if name.startswith("2."):
            assert torch.equal(value[:3], before[name])
            assert torch.equal(value[3:], fresh[name][3:])
        else:
            assert torch.equal(value, before[name])
    inputs = torch.randn(4, 4)
    torch.testing.assert_close(large.eval()(inputs)[:, :3], small.eval()(inputs))
