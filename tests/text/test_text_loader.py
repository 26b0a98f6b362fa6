"""Batches of texts: every sample once an epoch, texts of a like length together, and order and views as functions of what can be named."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from texts import corpus_of, loader_of, reader_of, sentences

from distillctl.data.loader import Place
from distillctl.data.split import whole
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.loader import PlainTexts, padding
from distillctl.data.text.reader import IDS, LENGTHS
from distillctl.data.text.sets import by_length
from distillctl.types import MARK

TEXTS = [text for text, _ in sentences(203, longest=40)]
READER = reader_of(TEXTS, 256)


def corpus() -> Corpus:
    found = corpus_of(TEXTS)
    found.register(READER)
    return found


CORPUS = corpus()


def indexes(batches) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


def shown(batches) -> dict[int, list[int]]:
    """The tokens of each sample, without what is filled up."""
    found = {}
    for batch in batches:
        ids, lengths = (batch.inputs[f"{READER.mark}.{name}"] for name in (IDS, LENGTHS))
        found |= {int(i): row[:length].tolist() for i, row, length in zip(batch.index, ids, lengths, strict=True)}
    return found


@given(batch_size=some.integers(1, 60), bucket=some.integers(0, 60), epoch=some.integers(0, 5))
def test_an_epoch_has_each_sample_once_but_for_the_few_of_no_whole_batch(batch_size, bucket, epoch):
    loader = loader_of(CORPUS, batch_size, bucket=bucket)
    order = loader.order(epoch)
    assert sorted(order.tolist()) == list(range(len(TEXTS)))
    cut = indexes(loader(epoch))
    seen = [index for batch in cut for index in batch]
    assert len(seen) == len(set(seen)) == loader.samples_per_epoch >= 0.95 * len(TEXTS)
    assert tuple(map(len, cut)) == loader.sizes


def test_the_order_is_a_function_of_seed_and_epoch():
    assert indexes(loader_of(CORPUS)(3)) == indexes(loader_of(CORPUS)(3))
    assert indexes(loader_of(CORPUS)(3)) != indexes(loader_of(CORPUS)(4))
    assert indexes(loader_of(CORPUS)(3)) != indexes(loader_of(CORPUS, seed=1)(3))


def test_an_epoch_may_begin_at_any_batch():
    loader = loader_of(CORPUS)
    every = list(loader(1))
    for first in (0, 1, 7, len(every)):
        rest = list(loader(1, first))
        assert indexes(rest) == indexes(every[first:])
        assert all(
            torch.equal(one.inputs[name], other.inputs[name]) for one, other in zip(rest, every[first:], strict=True) for name in one.inputs
        )


def test_batches_of_a_like_length_fill_up_little_and_come_in_no_order_of_length():
    lengths = CORPUS.tokens(READER).tokens.lengths
    loose, sorted_ = (padding(lengths, [batch.index for batch in loader_of(CORPUS, bucket=bucket)(0)]) for bucket in (0, 50))
    assert loose > 1.4
    assert sorted_ < 1.1
    longest = [int(lengths[batch.index.numpy()].max()) for batch in loader_of(CORPUS)(0)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_padding_is_positions_over_those_that_are_real():
    assert padding(torch.tensor([2, 4, 1]).numpy(), [torch.tensor([0, 1]), torch.tensor([2])]) == 9 / 7


def test_which_texts_are_sorted_among_each_other_is_drawn_anew_each_epoch():
    first, second = ({frozenset(batch) for batch in indexes(loader_of(CORPUS)(epoch))} for epoch in (0, 1))
    assert len(first & second) < len(first) / 2


@pytest.mark.parametrize("world", [2, 3])
def test_the_pieces_of_all_ranks_are_the_batches_of_one(world):
    alone = list(loader_of(CORPUS, 12)(2))
    ranks = [list(loader_of(CORPUS, 12, rank=rank, world=world)(2)) for rank in range(world)]
    for number, whole_batch in enumerate(alone):
        pieces = [batches[number] for batches in ranks]
        assert torch.cat([piece.index for piece in pieces]).tolist() == whole_batch.index.tolist()
        assert [piece.place for piece in pieces] == [
            (sum(len(piece.index) for piece in pieces[:rank]), len(whole_batch.index)) for rank in range(world)
        ]
    assert {**shown(ranks[0]), **shown(ranks[1]), **shown(ranks[-1])} == shown(alone)


def test_balanced_batches_have_as_many_of_one_class_as_of_another():
    loader = loader_of(CORPUS, 10)
    loader.targets = (torch.arange(len(TEXTS)) % 5 == 0).long()
    loader.split = whole(torch.arange(len(TEXTS)), loader.targets)
    loader.balanced = True
    seen = torch.cat([batch.targets for batch in loader(0)])
    assert abs(int(seen.sum()) / len(seen) - 0.5) < 0.05


def test_texts_are_measured_each_once_by_rank_the_shortest_first():
    split = by_length(whole(torch.arange(len(TEXTS)), torch.zeros(len(TEXTS), dtype=torch.int64)), CORPUS)
    every = [list(PlainTexts(split, CORPUS, 9, Place(torch.device("cpu"), rank, 2))) for rank in range(2)]
    assert sorted(index for batches in every for batch in indexes(batches) for index in batch) == list(range(len(TEXTS)))
    sizes = CORPUS.sizes
    assert all(sizes[batch.index.numpy()].tolist() == sorted(sizes[batch.index.numpy()]) for batches in every for batch in batches)
    assert all(batch.view == -1 for batches in every for batch in batches)


# --- views

AUGMENTED = {"mask": 0.2, "drop": 0.2}


def test_a_text_as_a_view_shows_it_is_a_function_of_seed_view_and_index_at_any_batch_size():
    expected = shown(loader_of(CORPUS, 8, **AUGMENTED).show([torch.arange(len(TEXTS))], 3))
    for size, seed in ((1, 0), (7, 5), (64, 9)):
        loader = loader_of(CORPUS, size, seed=seed, **AUGMENTED)
        order = random.Random(size).sample(range(len(TEXTS)), len(TEXTS))
        assert shown(loader.show(torch.tensor(order).split(size), 3)) == expected


def test_other_views_and_other_seeds_show_other_words():
    everything = [torch.arange(len(TEXTS))]
    one = shown(loader_of(CORPUS, **AUGMENTED).show(everything, 3))
    for other in (loader_of(CORPUS, **AUGMENTED).show(everything, 4), loader_of(CORPUS, view_seed=1, **AUGMENTED).show(everything, 3)):
        assert sum(one[index] != tokens for index, tokens in shown(other).items()) > 0.8 * len(TEXTS)


def test_two_texts_that_are_equal_are_not_changed_alike():
    corpus = corpus_of([TEXTS[0]] * 30)
    corpus.register(READER)
    assert len({tuple(tokens) for tokens in shown(loader_of(corpus, **AUGMENTED).show([torch.arange(30)], 0)).values()}) > 20


def words_of(tokens: dict[int, list[int]]) -> dict[int, list[str]]:
    return {index: READER.uncut.decode(ids[1:-1], skip_special_tokens=False).split() for index, ids in tokens.items()}


def test_words_are_hidden_as_often_as_asked_and_none_is_lost():
    seen = words_of(shown(loader_of(CORPUS, mask=0.3).show([torch.arange(len(TEXTS))], 0)))
    hidden = total = 0
    for index, words in seen.items():
        plain = TEXTS[index].split()
        assert len(words) == len(plain)
        assert all(word in ("[MASK]", own) for word, own in zip(words, plain, strict=True))
        hidden, total = hidden + words.count("[MASK]"), total + len(words)
    assert abs(hidden / total - 0.3) < 0.03


def test_words_are_left_out_as_often_as_asked_in_their_order_and_one_is_left():
    everything = [torch.arange(len(TEXTS))]
    seen = words_of(shown(loader_of(CORPUS, drop=0.3).show(everything, 0)))
    left = total = 0
    for index, words in seen.items():
        rest = iter(TEXTS[index].split())
        assert all(word in rest for word in words), "a sequence of the text's own words, in order"
        left, total = left + len(words), total + len(TEXTS[index].split())
    assert abs(left / total - 0.7) < 0.03
    assert all(len(words) == 1 for words in words_of(shown(loader_of(CORPUS, drop=1.0).show(everything, 0))).values())


def test_a_teacher_and_a_student_of_other_tokens_see_the_same_words():
    corpus, other = corpus_of(TEXTS), reader_of(TEXTS[:20], 256, vocab_size=300)
    corpus.register(READER), corpus.register(other)
    [batch] = loader_of(corpus, **AUGMENTED).show([torch.arange(40)], 2)

    def said(reader, row: int) -> str:
        ids, lengths = (batch.inputs[f"{reader.mark}.{name}"] for name in (IDS, LENGTHS))
        return reader.uncut.decode(ids[row, : lengths[row]].tolist(), skip_special_tokens=True)

    assert said(READER, 0)
    for row in range(40):
        assert said(READER, row).split() == said(other, row).split()


def test_texts_that_are_not_augmented_have_one_view_whatever_was_asked():
    loader = loader_of(CORPUS, views=4)
    assert [loader.view_of(epoch) for epoch in range(3)] == [0, 0, 0]
    assert loader.deciding() == {}
    augmented = loader_of(CORPUS, views=2, view_seed=7, **AUGMENTED)
    assert [augmented.view_of(epoch) for epoch in range(3)] == [0, 1, 0]
    assert augmented.deciding() == {"mask": 0.2, "drop": 0.2, "view_seed": 7, "view_scheme": 1}


def test_marks_tell_samples_apart_and_not_their_batches():
    marks = {int(i): int(mark) for batch in loader_of(CORPUS, 5)(0) for i, mark in zip(batch.index, batch.inputs[MARK], strict=True)}
    again = {int(i): int(mark) for batch in loader_of(CORPUS, 31)(1) for i, mark in zip(batch.index, batch.inputs[MARK], strict=True)}
    assert all(again[index] == mark for index, mark in marks.items() if index in again)
    assert len(set(marks.values())) == len({TEXTS[index] for index in marks})
