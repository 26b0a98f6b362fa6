"""The data of a sequence of tasks: the classes in the order in which they come, and which samples belong to which task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distillctl import draws
from distillctl.config import LifelongConfig
from distillctl.data.forms import one_form
from distillctl.data.split import DataSet, Split, joined
from distillctl.errors import ConfigError, did_you_mean
from distillctl.runs.bundle import Bundle
from distillctl.strategies.task import Task


@dataclass(frozen=True)
class Tasks:
    """own: the classes of each task, by their numbers in the order of the sequence. ends: how many have come by the end of each.

    folders: where the indices of each folder's samples end, if a sample belongs to the folder that it lies in and not to its class: classes may come again.
    """

    classes: tuple[str, ...]
    own: tuple[tuple[int, ...], ...]
    folders: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(max(label for group in self.own[: number + 1] for label in group) + 1 for number in range(len(self.own)))

    @property
    def is_domains(self) -> bool:
        """Whether all tasks have the same classes, of other kinds of samples."""
        return len(set(self.own)) == 1

    def task(self, number: int) -> Task:
        """The task of this number, from 1."""
        return Task(number, len(self.own), 0 if number == 1 else self.ends[number - 2], self.ends[number - 1], len(self.classes))

    def of(self, split: Split) -> Tensor:
        """int64 [N]: the number of the task that each sample belongs to."""
        if self.folders:
            return torch.bucketize(split.index, torch.tensor(self.folders), right=True) + 1
        number = torch.zeros(len(self.classes), dtype=torch.int64)
        for place, group in enumerate(self.own, start=1):
            number[list(group)] = place
        return number[split.targets]

    def part(self, split: Split, numbers: Sequence[int]) -> Split:
        """The samples of these tasks."""
        wanted = torch.isin(self.of(split), torch.tensor(numbers))
        return split if bool(wanted.all()) else split.take(wanted.nonzero().flatten().tolist())

    def in_words(self) -> list[str]:
        """A line for each task, or one where all have the same classes."""
        if self.is_domains:
            return [f"tasks: {len(self.own)} folders of the same {len(self.classes)} classes"]
        shown = [", ".join(self.classes[label] for label in group) for group in self.own]
        return [f"task {number}: {names if len(names) <= 100 else names[:97] + '...'}" for number, names in enumerate(shown, start=1)]


def arranged(bundle: Bundle, config: LifelongConfig) -> Bundle:
    """A data set with its classes in the order in which tasks bring them. Raises ConfigError where they make no tasks."""
    groups = groups_of(config, bundle.data.classes)
    order = [label for group in groups for label in group]
    ends = [sum(map(len, groups[: place + 1])) for place in range(len(groups))]
    own = tuple(tuple(range(end - len(group), end)) for group, end in zip(groups, ends, strict=True))
    tasks = Tasks(tuple(bundle.data.classes[label] for label in order), own)
    data = bundle.data
    if tasks.classes != data.classes:
        data = data.by_classes(tasks.classes)
    return with_tasks(bundle, data, tasks)


def with_tasks(bundle: Bundle, data: DataSet, tasks: Tasks) -> Bundle:
    return replace(bundle, data=data, inputs=replace(bundle.inputs, classes=data.classes), tasks=tasks)


def groups_of(config: LifelongConfig, classes: Sequence[str]) -> list[list[int]]:
    """The classes of each task, by their numbers in the data set."""
    return listed(config.tasks, classes) if isinstance(config.tasks, list) else divided(config, len(classes))


def listed(tasks: Sequence[Any], classes: Sequence[str]) -> list[list[int]]:
    """As somebody wrote them."""
    number = {one_form(name): place for place, name in enumerate(classes)}
    found, taken = [], dict[int, int]()
    for task, group in enumerate(tasks, start=1):
        labels = []
        for name in map(str, group):
            if one_form(name) not in number:
                raise ConfigError(f"tasks: task {task} has a class {name!r}, which the data set has not; {did_you_mean(name, classes)}")
            label = number[one_form(name)]
            if label in taken:
                raise ConfigError(f"tasks: class {name} is in tasks {taken[label]} and {task}; leave it in one of them")
            taken[label] = task
            labels.append(label)
        found.append(labels)
    if left := [name for place, name in enumerate(classes) if place not in taken]:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        raise ConfigError(f"tasks: no task has the classes {', '.join(left[:5])}{more}; add them to one, or leave them out of the data set")
    return found


def divided(config: LifelongConfig, classes: int) -> list[list[int]]:
    """The classes in a drawn order, as many to each task, but for the first where that is said."""
    tasks, first, seed = config.tasks, config.lifelong.first, config.lifelong.order_seed
    others, left = (tasks, classes) if first is None else (tasks - 1, classes - first)
    if tasks > classes or left < others:
        raise ConfigError(f"tasks={tasks}: the data set has {classes} classes, and each task needs one; lower tasks or lifelong.first")
    if left % others:
        fits = [number for number in range(2, classes + 1) if classes % number == 0]
        raise ConfigError(
            f"tasks={tasks}: {left} classes are not divided by {others}; with {classes} classes: tasks={' or '.join(map(str, fits))}, "
            "lifelong.first=N for a first task of another size, or the classes of each: tasks=[[a,b],[c]]"
        )
    order = list(range(classes)) if seed is None else draws.permutation(classes, seed, "classes").tolist()
    sizes = [left // others] * others if first is None else [first, *[left // others] * others]
    begins = [sum(sizes[:place]) for place in range(len(sizes))]
    return [order[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]


def of_folders(bundles: Sequence[Bundle]) -> Bundle:
    """Several folders, a task each, as one data set; classes come in the order in which the folders bring them. Raises ConfigError."""
    first = bundles[0]
    for bundle in bundles[1:]:
        if bundle.inputs.size != first.inputs.size:
            raise ConfigError(
                f"lifelong.folders: {first.config.root} has {first.inputs.noun} of {first.inputs.size} px and {bundle.config.root} of "
                f"{bundle.inputs.size}; set dataset.image_size"
            )
        if isinstance(bundle.data.train.inputs, list) != isinstance(first.data.train.inputs, list):
            raise ConfigError("lifelong.folders: some fit in memory and some do not; set dataset.in_memory=always or never")
    classes = tuple(dict.fromkeys(name for bundle in bundles for name in bundle.data.classes))
    if len(classes) < 2:
        raise ConfigError(f"lifelong.folders: all of them have one class, {classes[0]}; a classifier needs two or more")
    own = tuple(tuple(sorted(classes.index(name) for name in bundle.data.classes)) for bundle in bundles)
    parts, ends = list[DataSet](), list[int]()
    for bundle in bundles:
        parts.append(numbered(bundle.data.by_classes(classes), ends[-1] if ends else 0))
        ends.append(max(int(split.index.max()) for split in (parts[-1].train, parts[-1].val, parts[-1].test)) + 1)
    data = replace(
        first.data,
        name=" + ".join(dict.fromkeys(bundle.data.name for bundle in bundles)),
        classes=classes,
        train=joined([part.train for part in parts]),
        val=joined([part.val for part in parts]),
        test=joined([part.test for part in parts]),
        fingerprint=" ".join(bundle.data.fingerprint for bundle in bundles),
        notes=[note for bundle in bundles for note in bundle.data.notes],
    )
    return with_tasks(first, data, Tasks(classes, own, tuple(ends)))


def numbered(data: DataSet, begin: int) -> DataSet:
    """The same with the indices of its samples from `begin` on."""
    train, val, test = (replace(split, index=split.index + begin) for split in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test)


def part_of(bundle: Bundle, numbers: Sequence[int], growing: bool) -> Bundle:
    """What a step sees that learns these tasks: their training samples, and the validation samples of all that came so far.

    growing: of classes it knows those alone that came so far.
    """
    tasks, data = bundle.tasks, bundle.data
    assert tasks is not None
    classes = tasks.classes[: tasks.ends[numbers[-1] - 1]] if growing else tasks.classes
    so_far = range(1, numbers[-1] + 1)
    data = replace(data, classes=classes, train=tasks.part(data.train, numbers), val=tasks.part(data.val, so_far))
    return replace(bundle, data=data, inputs=replace(bundle.inputs, classes=classes))
