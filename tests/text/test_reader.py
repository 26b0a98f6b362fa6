"""What a model is given of a text: tokens as plain transformers makes them, templates whose own words are never cut, and marks."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from texts import DECIDING, corpus_of, reader_of, sentences

from distillctl.data.text import tokenizer
from distillctl.data.text.ragged import HELD, Builder, Strings
from distillctl.data.text.reader import IDS, LENGTHS, SECOND, TextReader, shortened
from distillctl.data.text.template import parse, read_template
from distillctl.errors import ConfigError
from distillctl.types import MARK

TEXTS = [text for text, _ in sentences(60, longest=24)]
OTHERS = [text for text, _ in sentences(60, seed=1, longest=24)]
CPU = torch.device("cpu")


def plain_tokenizer(reader: TextReader):
    """The same by the transformers library."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(reader.tokenizer), pad_token="[PAD]", padding_side="right")


def batch(corpus, reader, rows=None) -> dict[str, torch.Tensor]:
    """What the reader sees of some rows, by plain names."""
    corpus.register(reader)
    found = corpus.batch(torch.arange(len(corpus)) if rows is None else torch.tensor(rows), CPU)
    return {name.rpartition(".")[2]: column for name, column in found.items()}


# --- tokens


@pytest.mark.parametrize("max_tokens", [8, 16, 64])
def test_texts_become_the_tokens_that_transformers_makes_of_them(max_tokens):
    reader = reader_of(TEXTS, max_tokens)
    seen = batch(corpus_of(TEXTS), reader)
    theirs = plain_tokenizer(reader)(TEXTS, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    assert torch.equal(seen[IDS], theirs["input_ids"])
    assert torch.equal(seen[LENGTHS], theirs["attention_mask"].sum(1))


@pytest.mark.parametrize("max_tokens", [9, 20, 64])
def test_pairs_become_the_tokens_and_types_that_transformers_makes_of_them(max_tokens):
    reader = reader_of(TEXTS + OTHERS, max_tokens, pairs=True)
    seen = batch(corpus_of(TEXTS, OTHERS), reader)
    theirs = plain_tokenizer(reader)(
        TEXTS, OTHERS, padding=True, truncation="longest_first", max_length=max_tokens, return_tensors="pt", return_token_type_ids=True
    )
    assert torch.equal(seen[IDS], theirs["input_ids"])
    places = torch.arange(seen[IDS].shape[1])
    types = (places >= seen[SECOND][:, None]) & (places < seen[LENGTHS][:, None])
    assert torch.equal(types.long(), theirs["token_type_ids"])


def test_what_was_cut_is_counted():
    reader = reader_of(TEXTS, 10)
    encoded = reader.encode_rows(corpus_of(TEXTS))
    lengths = [len(reader.uncut.encode(text).ids) for text in TEXTS]
    assert encoded.cut == sum(length > 10 for length in lengths) > 0
    assert encoded.tokens.lengths.tolist() == [min(length, 10) for length in lengths]


def test_a_trained_tokenizer_is_a_function_of_its_texts_knows_every_byte_and_says_all_again():
    content = tokenizer.train(TEXTS, 400, False)
    assert content == tokenizer.train(iter(TEXTS), 400, False)
    reader = TextReader(content, 0, 128)
    for text in ("déjà vu", "日本語 🜁", "tabs\tand\nlines"):
        found = reader.uncut.encode(text)
        assert reader.uncut.token_to_id("[UNK]") not in found.ids
        assert reader.uncut.decode(found.ids).strip() == text
    assert TextReader(tokenizer.train(TEXTS, 400, True), 0, 128).uncut.encode("THE Film").ids == reader.uncut.encode("the film").ids


def test_rows_of_different_length_come_back_as_they_went_in_from_memory_and_from_a_file():
    few = Strings.of(TEXTS)
    assert [few[row] for row in range(len(few))] == TEXTS
    long = ["é" * (HELD // 4) + str(number) for number in range(9)]
    many = Strings.of([*long, "", *TEXTS])
    assert list(many) == [*long, "", *TEXTS]
    assert many.rows.lengths.tolist() == [len(text.encode()) for text in [*long, "", *TEXTS]]


def test_rows_are_filled_up_behind_to_the_longest_of_those_asked_for():
    builder = Builder(np.int32)
    for row in ([1, 2, 3], [], [4]):
        builder.add(np.array(row, np.int32), len(row))
    found = builder.done()
    assert found.padded(np.array([2, 0]), 9).tolist() == [[4, 9, 9], [1, 2, 3]]
    assert found.padded(np.array([1]), 9).tolist() == [[9]]
    assert found.padded(np.array([2, 1, 2]), 0).tolist() == [[4], [0], [4]]


# --- templates


def in_template(text: str, **more: object):
    return parse(text, "student.template", ("text", "hint"), **more)


def test_a_template_puts_columns_into_its_words():
    corpus = corpus_of(["a film", "{no}"], hint=["so so", "bad"])
    template = in_template("{hint}: {text}!")
    assert template.filled(corpus, 0) == "so so: a film!"
    assert template.filled(corpus, 1) == "bad: {no}!"
    assert in_template("{{{text}}}\\n").filled(corpus, 0) == "{a film}\n"


def test_what_is_spelled_is_read_again_to_the_same():
    template = in_template("{{x}} {examples} {text}", constants={"examples": "one {1}"})
    again = in_template(template.spelled())
    assert again.filled(corpus_of(["a"], hint=[""]), 0) == template.filled(corpus_of(["a"], hint=[""]), 0) == "{x} one {1} a"


def test_a_script_fills_it_alike():
    template = in_template("{examples} {hint} | {text}", constants={"examples": "few"})
    row = {"text": "a film", "hint": "so"}
    by_script = "".join(words + (row[name] if name is not None else "") for words, name in template.script_pieces())
    assert by_script == template.filled(corpus_of(["a film"], hint=["so"]), 0) == "few so | a film"


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{text", "expected '}'"),
        ("text}", "Single '}'"),
        ("{}", "expected the name of a column in braces"),
        ("{text!r}", "expected the name of a column in braces"),
        ("{text:>9}", "expected the name of a column in braces"),
        ("{tekst}", "{tekst} is no column; did you mean text?"),
        ("{text.__class__}", "is no column"),
        ("no column", "it has no column in braces"),
    ],
)
def test_a_template_that_is_wrong_is_a_line_with_its_key(template, line):
    with pytest.raises(ConfigError) as caught:
        in_template(template)
    assert str(caught.value).startswith("student.template: ")
    assert line in str(caught.value)


def test_a_template_may_lie_in_a_file(tmp_path):
    (tmp_path / "t.txt").write_text("{text}?\n")
    assert read_template(str(tmp_path / "t.txt"), "student.template", ("text",)).filled(corpus_of(["who"]), 0) == "who?\n"


WORDS = [word for words in DECIDING.values() for word in words]


@given(
    text=some.lists(some.sampled_from([*WORDS, "🜁🜂", "é", "x" * 30, " "]), max_size=30).map(" ".join),
    hint=some.lists(some.sampled_from(WORDS), max_size=30).map(" ".join),
    max_tokens=some.integers(14, 40),
)
def test_a_template_s_own_words_are_never_cut_and_what_it_gives_always_fits(text, hint, max_tokens):
    reader = BY_TEMPLATE[max_tokens]
    corpus = corpus_of([text], hint=[hint])
    encoded = reader.encode_rows(corpus)
    ids = encoded.tokens[0].tolist()
    assert len(ids) <= max_tokens
    said = reader.uncut.decode(ids)
    assert said.lstrip().startswith("Q: ")
    assert " hint " in said
    assert said.endswith(" A:")
    whole = reader.uncut.encode(f"Q: {text} hint {hint} A:").ids
    assert encoded.cut == (len(whole) > max_tokens)
    assert encoded.cut or ids == whole


BY_TEMPLATE = {count: reader_of([*TEXTS, "Q: hint A:"], count, template=in_template("Q: {text} hint {hint} A:")) for count in range(14, 41)}


def test_a_text_of_characters_of_many_tokens_is_cut_before_one():
    assert shortened("🜁🜂", [(0, 1), (0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2), (1, 2)], 1) == "🜁"
    assert shortened("🜁", [(0, 1), (0, 1)], 1) == ""
    assert shortened("ab cd", [(0, 2), (3, 5)], 1) == "ab"
    assert shortened("ab", [(0, 2)], 5) == ""


def test_a_template_that_is_too_long_by_itself_is_a_line():
    reader = reader_of(TEXTS, 4, template=in_template("many words of ones own before {text}"))
    with pytest.raises(ConfigError, match=r"max_tokens=4: the template alone has \d+ tokens; raise it"):
        reader.encode_rows(corpus_of(["a"], hint=[""]))


# --- marks


def test_marks_of_readers_tell_apart_whatever_changes_tokens():
    content, other = (tokenizer.train(TEXTS, size, False) for size in (400, 300))
    readers = [
        TextReader(content, 0, 16),
        TextReader(other, 0, 16),
        TextReader(content, 1, 16),
        TextReader(content, 0, 17),
        TextReader(content, 0, 16, in_template("{text}")),
        TextReader(content, 0, 16, in_template("{text}!")),
        TextReader(content, 0, 16, None, True),
    ]
    assert len({reader.mark for reader in readers}) == len(readers)
    assert TextReader(content, 0, 16, in_template("{text}")).mark == readers[4].mark
    assert readers[0].tokenizer_mark == readers[3].tokenizer_mark != readers[1].tokenizer_mark


def test_two_readers_share_a_batch_and_each_has_its_own_tokens():
    corpus, short, long = corpus_of(TEXTS), reader_of(TEXTS, 6), reader_of(TEXTS, 30)
    for reader in (short, long, reader_of(TEXTS, 30)):
        corpus.register(reader)
    found = corpus.batch(torch.tensor([3, 5]), CPU)
    assert set(found) == {MARK, *(f"{reader.mark}.{name}" for reader in (short, long) for name in (IDS, LENGTHS))}
    assert found[f"{short.mark}.{IDS}"].shape[1] == 6
    alone = batch(corpus_of(TEXTS), long, [3, 5])
    assert torch.equal(found[f"{long.mark}.{IDS}"], alone[IDS])


def test_marks_of_rows_are_of_all_that_is_told_of_them():
    marks = corpus_of(["a", "a", "ab", "a"], hint=["b", "b", "", "c"]).marks
    assert marks[0] == marks[1]
    assert len(set(marks.tolist())) == 3


# --- tokenizers of others


def test_the_id_that_fills_up_is_what_the_files_say_else_a_usual_sign(tmp_path):
    content = reader_of(TEXTS).tokenizer
    (tmp_path / "tokenizer.json").write_text(content)
    assert tokenizer.given(str(tmp_path), "student.tokenizer") == (content, 0)
    for told in ("[SEP]", {"content": "[SEP]"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": told}))
        assert tokenizer.given(str(tmp_path / "tokenizer.json"), "student.tokenizer")[1] == 3
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    assert tokenizer.given(str(tmp_path), "student.tokenizer")[1] == 0
