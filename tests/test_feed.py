"""Batches that are made ready ahead are the same batches, errors come in their place, and nobody is left behind."""

import threading

import pytest
import torch

from distillctl.feed import Feed, read_ahead
from distillctl.loop import cut
from distillctl.types import Batch


def batch(number: int) -> Batch:
    return Batch(torch.full((4, 2), float(number)), torch.arange(4), torch.arange(4) + 10 * number, view=0)


def numbers(epoch: int, first: int = 0):
    for number in range(first, 5):
        yield batch(10 * epoch + number)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "feed"]


@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
def test_ahead_or_not_the_batches_are_the_same(ahead):
    feed = Feed(numbers, ahead=ahead)
    for epoch, first in ((0, 0), (3, 2)):
        assert [int(each.index[0]) for each in feed(epoch, first)] == [int(each.index[0]) for each in numbers(epoch, first)]
    assert threads() == []


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_is_recalled_is_a_column_that_is_cut_with_the_others(ahead):
    feed = Feed(numbers, lambda: lambda each: each._replace(answers={"logits": each.inputs[:, None]}), ahead)
    first = next(iter(feed(1)))
    assert torch.equal(first.answers["logits"], first.inputs[:, None])
    pieces = cut(first, 3)
    assert [len(piece.answers["logits"]) for piece in pieces] == [len(piece.index) for piece in pieces] == [2, 1, 1]
    assert cut(batch(1), 3)[0].answers is None


def test_an_error_comes_in_its_place():
    def broken():
        yield 1
        yield 2
        raise OSError("gone")

    items = read_ahead(broken(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)
    assert threads() == []


def test_who_leaves_early_leaves_no_thread():
    def endless():
        while True:
            yield 0

    items = read_ahead(endless(), 2)
    assert next(items) == 0
    items.close()
    assert threads() == []


def test_no_more_is_taken_ahead_than_was_asked_for():
    taken = []

    def counted():
        for number in range(9):
            taken.append(number)
            yield number

    items = read_ahead(counted(), 2)
    assert next(items) == 0
    for _ in range(2000):
        if len(taken) >= 4:
            break
        threading.Event().wait(0.001)
    assert len(taken) <= 4  # one is out, two wait, and one is in the hand
    items.close()
