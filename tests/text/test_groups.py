"""Which texts stay on one side of a split: by a column, or as phrases of one sentence."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from texts import loaded, sentences, write_csv

from distillctl.data.cutting import cut_groups
from distillctl.data.split import Split
from distillctl.data.text.groups import NOWHERE, by_containment, by_value
from distillctl.errors import DataError

WORDS = ["a", "b", "c", "d"]


def stands_in(one: str, other: str) -> bool:
    """Word for word, by looking at every place."""
    words, others = one.split(), other.split()
    return any(others[begin : begin + len(words)] == words for begin in range(len(others) - len(words) + 1))


def brute(texts: list[str]) -> list[int | None]:
    """Of each text the first place of the one largest text that it stands in; None where there are several."""
    spelled = [" ".join(text.split()) for text in texts]
    largest = {text for text in spelled if not any(text != other and stands_in(text, other) for other in spelled)}
    roots = [[root for root in sorted(largest) if stands_in(text, root)] for text in spelled]
    return [spelled.index(own[0]) if len(own) == 1 else None for own in roots]


@given(texts=some.lists(some.lists(some.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=14))
def test_containment_is_what_looking_at_every_place_finds(texts):
    groups, expected = by_containment(texts).tolist(), brute(texts)
    assert [group == NOWHERE for group in groups] == [root is None for root in expected]
    for one, other in zip(groups, expected, strict=True):
        assert [place for place, group in enumerate(groups) if group == one] == [
            place for place, root in enumerate(expected) if root == other
        ]


def test_a_phrase_of_two_sentences_is_in_no_group():
    texts = ["a b c", "b c d", "b c", "a b", "e"]
    groups = by_containment(texts).tolist()
    assert groups[2] == NOWHERE
    assert groups[0] == groups[3]
    assert len({groups[0], groups[1], groups[4]}) == 3


def test_words_are_not_torn_and_spaces_do_not_matter():
    whole, torn, spaced = by_containment(["an apple pie", "app", " apple   pie "]).tolist()
    assert torn != whole
    assert spaced == whole


def test_equal_values_are_one_group():
    assert by_value(["x", "y", "x", ""]).tolist() == [0, 1, 0, 2]


@given(seed=some.integers(0, 200), share=some.sampled_from([0.1, 0.3, 0.5]))
def test_a_cut_by_groups_never_separates_one_and_comes_near_the_share(seed, share):
    draw = random.Random(seed)
    groups = torch.tensor([draw.randrange(-1, 12) for _ in range(80)])
    split = Split(torch.arange(80), torch.zeros(80, dtype=torch.int64), torch.arange(80))
    left, held = cut_groups(split, round(80 * share), groups, f"val {seed}")
    assert sorted(left.index.tolist() + held.index.tolist()) == list(range(80))
    assert not set(groups[left.index].tolist()) & set(groups[held.index].tolist())
    assert NOWHERE not in groups[held.index].tolist()
    assert abs(len(held) - 80 * share) <= max(torch.bincount(groups[groups >= 0]).tolist())


def test_a_cut_by_groups_that_cannot_be_is_a_line():
    split = Split(torch.arange(6), torch.zeros(6, dtype=torch.int64), torch.arange(6))
    with pytest.raises(DataError, match="dataset.groups: of 6 samples in 1 groups none can be held out whole"):
        cut_groups(split, 2, torch.zeros(6, dtype=torch.int64), "val 0")


def test_texts_of_one_author_are_on_one_side(tmp_path):
    lines = [(text, label, f"author {number % 13}") for number, (text, label) in enumerate(sentences(200))]
    data = loaded(write_csv(tmp_path / "t.csv", lines, header=("text", "label", "author")), groups="author")
    parts = [{data.corpus.words_of("author", row) for row in split.inputs.tolist()} for split in (data.train, data.val, data.test)]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def phrases(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each text, and beginnings and ends of it, as sets of parsed sentences have them."""
    found = []
    for text, label in rows:
        words = text.split()
        found += [(text, label), *((" ".join(part), label) for part in (words[: len(words) // 2], words[len(words) // 2 :]) if part)]
    return found


def held_and_kept(data) -> tuple[list[str], list[str]]:
    return tuple([" ".join(data.corpus.words_of("text", row).split()) for row in split.inputs.tolist()] for split in (data.val, data.train))


def test_no_phrase_of_a_training_text_is_held_out(tmp_path):
    file = write_csv(tmp_path / "t.csv", phrases(sentences(120, longest=20)))
    held, kept = held_and_kept(loaded(file, groups="contained"))
    assert len(held) > 5
    assert not [text for text in held if any(stands_in(text, other) for other in kept)]
    held, kept = held_and_kept(loaded(file))
    assert [text for text in held if any(stands_in(text, other) for other in kept)], "without groups there are some"


def test_of_real_phrases_none_that_is_held_out_stands_in_a_training_text(real_data, tmp_path):
    source = real_data / "sst2"
    if not source.is_dir():
        pytest.skip("no sst2 in DISTILLCTL_TEST_DATA")
    data = loaded(source, groups="contained")
    held, kept = held_and_kept(data)
    assert 0.08 < len(held) / (len(held) + len(kept)) < 0.12
    everything = " \n ".join(kept).join((" ", " "))
    looked_at = held[::13]  # each is sought in millions of characters
    assert len(looked_at) > 400
    assert not [text for text in looked_at if f" {text} " in everything]


def test_groups_of_a_column_that_is_not_there_is_a_line(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.groups=autor: .* has no such column \(text, label\); or take contained"):
        loaded(write_csv(tmp_path / "t.csv", sentences(60)), groups="autor")
