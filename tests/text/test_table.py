"""Files of texts as people and programs write them: what is read of each, and how a line that is wrong is named."""

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from texts import loaded, sentences, write_csv

from distillctl.config import TextSetConfig
from distillctl.data.text.columns import known_names
from distillctl.data.text.gather import gather
from distillctl.data.text.table import Table, open_table
from distillctl.errors import DataError

KNOWN = known_names(TextSetConfig(name="text"))


def table(place: Path, content: str | bytes, name: str = "t.csv", delimiter: str | None = None, encoding: str | None = None) -> Table:
    file = place / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_table(file, KNOWN, delimiter, encoding)


def rows(opened: Table) -> list[list[str | None]]:
    return [list(cells) for _, cells in opened.rows]


def test_a_csv_has_a_header_and_a_row_a_line(tmp_path):
    opened = table(tmp_path, "text,label\na film,good\nno film,bad\n")
    assert opened.columns == ("text", "label")
    assert opened.header
    assert list(opened.rows) == [(2, ["a film", "good"]), (3, ["no film", "bad"])]


def test_quoted_cells_hold_commas_quotes_and_new_lines_and_lines_are_still_counted(tmp_path):
    opened = table(tmp_path, 'text,label\n"one, ""two""\nthree",good\r\nnext,bad\n')
    assert list(opened.rows) == [(2, ['one, "two"\nthree', "good"]), (4, ["next", "bad"])]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(mark, tmp_path):
    assert rows(table(tmp_path, f"label{mark}text\ngood{mark}a film\nbad{mark}no film\n")) == [["good", "a film"], ["bad", "no film"]]


def test_a_delimiter_that_is_asked_for_is_taken(tmp_path):
    assert rows(table(tmp_path, "label~text\ngood~a, film\n", delimiter="~")) == [["good", "a, film"]]
    assert rows(table(tmp_path, "label\ttext\ngood\ta, film\n", delimiter="tab")) == [["good", "a, film"]]


def test_commas_in_texts_that_are_no_columns_leave_one_column(tmp_path):
    opened = table(tmp_path, "text\none, two\nthree\nfour, five, six\n")
    assert (opened.columns, rows(opened)) == (("text",), [["one, two"], ["three"], ["four, five, six"]])


@pytest.mark.parametrize("row", ["one, two, three,good", "good"])
@pytest.mark.parametrize("before", [3, 500])
def test_a_row_of_other_columns_is_named_by_its_line_wherever_it_is(row, before, tmp_path):
    lines = ["text,label", *[f"text {number},good" for number in range(before)], row]
    opened = table(tmp_path, "\n".join(lines))
    with pytest.raises(DataError) as caught:
        rows(opened)
    assert f"t.csv, line {before + 2}: {row.count(',') + 1} column" in str(caught.value)
    assert "where the first line has 2; quote texts that hold ','" in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE), ("utf-8", b"")],
)
@pytest.mark.parametrize("asked", [None, "named"])
def test_unicode_is_read_with_and_without_its_mark(encoding, mark, asked, tmp_path):
    named = {None: None, "named": "utf-8" if encoding == "utf-8" else "utf-16"}[asked]
    opened = table(tmp_path, mark + "text,label\ncafé 日本,good\n".encode(encoding), encoding=named)
    assert (opened.columns, rows(opened), opened.notes) == (("text", "label"), [["café 日本", "good"]], [])


def test_western_windows_is_read_and_said(tmp_path):
    opened = table(tmp_path, "text,label\n“café”,good\n".encode("cp1252"))
    assert rows(opened) == [["“café”", "good"]]
    assert opened.notes == ["t.csv is not UTF-8, and was read as cp1252; dataset.encoding says otherwise"]


def test_an_encoding_that_is_asked_for_is_taken(tmp_path):
    opened = table(tmp_path, "text,label\nżółw,good\n".encode("iso8859-2"), encoding="latin2")
    assert (rows(opened), opened.notes) == ([["żółw", "good"]], [])


@pytest.mark.parametrize(
    ("content", "encoding", "line"),
    [
        ("text,label\na,b\n".encode("utf-16")[:-1], None, "it begins as UTF-16 and is not written so"),
        (codecs.BOM_UTF8 + b"text,label\n\xff,b\n", None, "it begins as UTF-8 and is not written so"),
        (b"text,label\n\xff,b\n", "utf-8", "dataset.encoding=utf-8"),
        (b"text,label\na,b\n", "utf-9", "dataset.encoding=utf-9: no such encoding"),
        (b"text,label\na,b\n", "base64", "dataset.encoding=base64: no such encoding"),
    ],
)
def test_what_is_not_in_its_encoding_is_a_line(content, encoding, line, tmp_path):
    with pytest.raises(DataError) as caught:
        rows(table(tmp_path, content, encoding=encoding))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quotation_marks_in_a_tsv_that_people_wrote_are_a_part_of_the_text(tmp_path):
    content = 'sentence\tlabel\n"quoted" at first\t1\n5" screen\t0\n"never closed\t1\n'
    assert rows(table(tmp_path, content, "t.tsv")) == [['"quoted" at first', "1"], ['5" screen', "0"], ['"never closed', "1"]]


def test_a_tsv_that_a_program_quoted_is_read_without_the_marks(tmp_path):
    content = 'sentence\tlabel\n"a ""quoted"" word"\t1\n"a\ttab"\t0\n'.replace("a\ttab", "no tab")
    assert rows(table(tmp_path, content, "t.tsv")) == [['a "quoted" word', "1"], ["no tab", "0"]]


def test_a_file_without_a_header_has_numbers_for_columns(tmp_path):
    opened = table(tmp_path, "1,a film of some length\n0,no film at all\n")
    assert (opened.header, opened.columns) == (False, ("0", "1"))
    assert len(rows(opened)) == 2


def test_of_a_file_without_a_header_the_longest_column_is_the_text(tmp_path):
    lines = "".join(f"{number},{'good' if label == 'good' else 'bad'},{text}\n" for number, (text, label) in enumerate(sentences(20)))
    opened = table(tmp_path, lines)
    found = gather({"all": [("t.csv", opened)]}, TextSetConfig(name="text"))
    assert (found.corpus.text, found.classes) == ("2", ("bad", "good"))
    assert len(found.corpus) == 20
    assert found.notes == [
        "t.csv: its first line is no header; texts are taken from column 2, labels from column 1; dataset.text and dataset.label say otherwise"
    ]


def test_blank_lines_are_no_rows(tmp_path):
    assert list(table(tmp_path, "\ntext,label\n\na,b\n\n\nc,d\n").rows) == [(4, ["a", "b"]), (7, ["c", "d"])]


def test_json_lines_may_lack_keys_hold_nulls_and_come_in_any_order(tmp_path):
    lines = [
        {"text": "one", "label": 1, "note": None},
        {"label": True, "text": "two"},
        {"text": None, "extra": [1, {"a": 2}]},
        {"label": 0.0},
    ]
    opened = table(tmp_path, "\n".join(json.dumps(line) for line in lines) + "\n\n", "t.jsonl")
    assert opened.columns == ("text", "label", "note", "extra")
    assert list(opened.rows) == [
        (1, ["one", "1", None, None]),
        (2, ["two", "true", None, None]),
        (3, [None, None, None, '[1, {"a": 2}]']),
        (4, [None, "0", None, None]),
    ]


@pytest.mark.parametrize(
    ("second", "text"),
    [("{", "no JSON that can be read"), ("[1]", "expected an object"), ("[" * 100_000, "no JSON that can be read"), ("1" * 5000, "line 2")],
)
def test_a_line_of_json_that_is_wrong_is_named(second, text, tmp_path):
    with pytest.raises(DataError) as caught:
        rows(table(tmp_path, '{"text": "a"}\n' + second + "\n", "t.jsonl"))
    assert "t.jsonl, line 2: " in str(caught.value)
    assert text in str(caught.value)


def test_half_a_character_as_json_may_have_it_ends_nothing(tmp_path):
    rows_of = [{"text": f"half \ud800 {number}", "label": number % 2} for number in range(20)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of))
    data = loaded(tmp_path / "t.jsonl")
    assert data.corpus.words_of("text", 0) == "half ? 0"


def parquet(file: Path, columns: dict, names: list[str] | None = None, **more) -> Path:
    arrow, parquets = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made = arrow.table(columns)
    if names is not None:
        told = {"info": {"features": {"text": {"dtype": "string"}, "label": {"names": names, "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(told)})
    parquets.write_table(made, file, **more)
    return file


def test_parquet_names_labels_that_are_numbers(tmp_path):
    texts = [text for text, _ in sentences(40)]
    file = parquet(tmp_path / "t.parquet", {"text": texts, "label": [number % 2 for number in range(40)]}, ["negative", "positive"])
    data = loaded(file)
    assert data.classes == ("negative", "positive")
    first = int(data.train.inputs[0])
    assert int(data.train.targets[0]) == first % 2
    assert data.corpus.words_of("text", first) == texts[first]


def test_minus_one_among_labels_that_are_numbers_is_none(tmp_path):
    texts = [text for text, _ in sentences(40)]
    data = loaded(parquet(tmp_path / "t.parquet", {"text": texts, "label": [-1] * 40}, ["a", "b"]), labels=False, class_names=["a", "b"])
    assert not data.train.labelled
    assert data.classes == ("a", "b")


def test_cells_of_parquet_become_texts(tmp_path):
    columns = {"text": ["one", None], "label": [1.0, float("nan")], "flag": [True, None], "many": [[1, 2], []]}
    assert rows(open_table(parquet(tmp_path / "t.parquet", columns), KNOWN)) == [["one", "1", "true", "[1, 2]"], [None, None, None, "[]"]]


def test_parquet_that_is_damaged_is_a_line(tmp_path):
    file = parquet(tmp_path / "t.parquet", {"text": [f"text {number} " * 30 for number in range(3000)]}, compression="snappy")
    content = bytearray(file.read_bytes())
    content[200:4000] = b"\xff" * 3800
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read behind row 0"):
        rows(open_table(file, KNOWN))
    file.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"t\.parquet: no parquet file that can be read"):
        open_table(file, KNOWN)


def test_two_columns_of_one_name_and_an_empty_file_are_lines(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv: two columns are called 'text'"):
        table(tmp_path, "text,text\na,b\n")
    for name in ("e.csv", "e.jsonl"):
        with pytest.raises(DataError, match=f"{name}: is empty"):
            table(tmp_path, "", name)
    with pytest.raises(DataError, match=r"files of texts are \.csv"):
        table(tmp_path, "text\na\n", "t.txt")


TEXTS = some.lists(some.tuples(some.text(min_size=1).filter(str.strip), some.sampled_from(["a", "b"])), min_size=2, max_size=12)


@given(written=TEXTS)
def test_whatever_a_csv_writer_wrote_is_read_again(written, tmp_path_factory):
    clean = [(text.replace("\0", "").replace("\r", "") or "x", label) for text, label in written]
    clean = [(text.encode("utf-8", "replace").decode(), label) for text, label in clean]
    file = write_csv(tmp_path_factory.mktemp("written") / "t.csv", clean)
    assert rows(open_table(file, KNOWN)) == [list(row) for row in clean]


def test_columns_are_found_by_their_usual_names_in_any_case_and_taken_as_asked(tmp_path):
    lines = [(f"raw {number}", f"clean {number}", "ab"[number % 2]) for number in range(40)]
    file = write_csv(tmp_path / "t.csv", lines, header=("Text", "clean", "Sentiment"))
    assert loaded(file).corpus.words_of("text", 3) == "raw 3"
    assert loaded(file, text="clean").corpus.words_of("text", 3) == "clean 3"
    assert loaded(file, text="CLEAN").corpus.text == "clean"


def test_a_column_that_is_called_text_is_not_the_text_where_another_is_asked_for(tmp_path):
    lines = [(f"raw {number}", f"clean {number}", "ab"[number % 2]) for number in range(40)]
    data = loaded(write_csv(tmp_path / "t.csv", lines, header=("text", "clean", "label")), text="clean")
    assert data.corpus.words_of("text", 3) == "clean 3"


def test_a_pair_is_found_asked_for_or_refused(tmp_path):
    lines = [(f"one {number}", f"two {number}", "ab"[number % 2]) for number in range(40)]
    file = write_csv(tmp_path / "t.csv", lines, header=("premise", "hypothesis", "label"))
    assert loaded(file).corpus.pair == "hypothesis"
    assert loaded(file, pair="").corpus.pair is None
    assert loaded(file, text="hypothesis", pair="premise").corpus.words_of("pair", 3) == "one 3"


def test_rows_without_a_text_are_left_out_counted_and_keep_the_places_of_the_others(tmp_path):
    lines = [(text if number % 5 else "  ", label) for number, (text, label) in enumerate(sentences(40))]
    data = loaded(write_csv(tmp_path / "t.csv", lines))
    assert len(data.corpus) == 32
    assert any(note.startswith("8 of 40 rows have no text and were left out, the first of them line 2 of ") for note in data.notes)
    assert all(int(index) % 5 for split in (data.train, data.val, data.test) for index in split.index)


def test_labels_that_are_numbers_are_in_the_order_of_their_size_and_can_be_named(tmp_path):
    lines = [(f"text {number}", (2, 10, 1)[number % 3]) for number in range(60)]
    file = write_csv(tmp_path / "t.csv", lines)
    assert loaded(file).classes == ("1", "2", "10")
    named = loaded(file, class_names=["few", "some", "many"])
    assert named.classes == ("few", "some", "many")
    assert named.train.targets.tolist() == [1 if row % 3 == 0 else 2 if row % 3 == 1 else 0 for row in named.train.inputs.tolist()]


def test_shards_of_a_part_are_one_and_parts_are_known_by_their_files(tmp_path):
    every = sentences(60)
    write_csv(tmp_path / "set/train-00000-of-00002.csv", every[:20])
    write_csv(tmp_path / "set/train-00001-of-00002.csv", every[20:40])
    write_csv(tmp_path / "set/dev.csv", every[40:50])
    write_csv(tmp_path / "set/test.csv", every[50:])
    data = loaded(tmp_path / "set")
    assert [len(split) for split in (data.train, data.val, data.test)] == [40, 10, 10]
    assert data.train.index.tolist() == list(range(40))


def test_without_labels_to_the_test_texts_those_of_validation_are_the_test(tmp_path):
    every = sentences(60)
    write_csv(tmp_path / "set/train.csv", every[:40])
    write_csv(tmp_path / "set/dev.csv", every[40:50])
    write_csv(tmp_path / "set/test.csv", [(text, "") for text, _ in every[50:]])
    data = loaded(tmp_path / "set")
    assert (len(data.test), data.test.labelled) == (10, True)
    assert len(data.train) + len(data.val) == 40
    assert any("the test texts have no labels" in note for note in data.notes)
