"""Each source gives every sample once, in the order of time."""

import os
from pathlib import Path

import pytest
import torch
from streams import dated as dated_folders
from streams import digits, folder, write
from streams import table as csv_file

from distillctl.config import StreamStageConfig
from distillctl.data.split import Split
from distillctl.errors import CheckpointError, DataError
from distillctl.runs.stream import dated, ordered, table
from distillctl.runs.stream.journal import Journal
from distillctl.runs.stream.source import Listed, numbered
from distillctl.runs.stream.watch import Watched

# a data set


def split(count: int = 200, classes: int = 10) -> Split:
    return Split(torch.zeros(count, 3, 4, 4, dtype=torch.uint8), torch.arange(count) % classes, torch.arange(count))


def labels(stage: StreamStageConfig) -> list[int]:
    return [entry.label for entry in ordered.of_split(split(), 10, stage).entries]


def test_every_sample_of_a_set_comes_once():
    for drift in ("abrupt", "gradual", "none"):
        entries = ordered.of_split(split(), 10, StreamStageConfig(drift=drift)).entries
        assert sorted(entry.place for entry in entries) == list(range(200))


def test_abrupt_drift_is_one_group_of_classes_after_the_other():
    found = labels(StreamStageConfig(phases=5, drift="abrupt"))
    groups = [set(found[begin : begin + 40]) for begin in range(0, 200, 40)]
    assert all(len(group) == 2 for group in groups)
    assert set().union(*groups) == set(range(10))


def test_gradual_drift_mixes_neighbours_alone():
    abrupt, gradual = (labels(StreamStageConfig(phases=5, drift=drift)) for drift in ("abrupt", "gradual"))
    stretch = {label: place // 40 for place, label in enumerate(abrupt)}
    middle = [stretch[label] for label in gradual[95:105]]
    assert {1, 2, 3} >= set(middle)
    assert len({stretch[label] for label in gradual[70:90]}) > 1  # about the boundary at 80


def test_without_drift_all_classes_come_from_the_start():
    assert len(set(labels(StreamStageConfig(drift="none"))[:60])) == 10


def test_labels_are_shuffled_where_it_is_asked_for_and_nowhere_else():
    plain, spoilt = labels(StreamStageConfig(drift="none")), labels(StreamStageConfig(drift="none", shuffled=[50, 150]))
    other = [place for place in range(200) if plain[place] != spoilt[place]]
    assert all(50 <= place < 150 for place in other)
    assert 70 < len(other) <= 100


# folders with dates


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("2026-01-03", "2026-01-03 00:00:00"),
        ("20260103", "2026-01-03 00:00:00"),
        ("2026-01-03T12-30", "2026-01-03 12:30:00"),
        ("2026-01-03_123005", "2026-01-03 12:30:05"),
        ("2026-13-03", "None"),
        ("cats", "None"),
    ],
)
def test_a_folder_is_of_the_date_that_its_name_says(name: str, when: str):
    assert str(dated.date_of(name)) == when


def test_dates_come_in_their_order_however_they_are_written(tmp_path: Path):
    [(image, _)] = digits(1)
    for name in ("20260110", "2026-01-02", "2026-01-02T06-00"):
        write(tmp_path / name / "a" / "0.png", image)
        write(tmp_path / name / "b" / "1.png", image)
    found = dated.listed(tmp_path, 0)
    assert [item.time for item in found] == sorted(item.time for item in found)
    assert [item.name.split("/")[0] for item in found] == ["2026-01-02"] * 2 + ["2026-01-02T06-00"] * 2 + ["20260110"] * 2
    assert {item.label for item in found} == {"a", "b"}


def test_within_a_date_classes_are_mixed_by_a_draw(tmp_path: Path):
    found = dated.listed(dated_folders(tmp_path, days=1, a_day=30), 0)
    assert [item.label for item in found] != sorted(item.label for item in found)
    assert found == dated.listed(tmp_path, 0)
    assert sorted(item.name for item in found) == sorted(item.name for item in dated.listed(tmp_path, 1))


# a table


def test_rows_come_in_their_order(tmp_path: Path):
    found = table.listed(csv_file(tmp_path, 10))
    assert [item.name for item in found] == [f"{place:04d}.png" for place in range(10)]
    assert found[3].file == tmp_path / "0003.png"


def test_times_may_be_numbers_and_may_stand_still(tmp_path: Path):
    (tmp_path / "a.csv").write_text("label,time,path\nx,1.5,a.png\ny,1.5,b.png\nx,2,c.png\n")
    assert [item.time for item in table.listed(tmp_path / "a.csv")] == ["1.5", "1.5", "2"]


def test_classes_have_numbers_and_a_stranger_is_named(tmp_path: Path):
    found = table.listed(csv_file(tmp_path, 10))
    assert [entry.label for entry in numbered(found, ("0", "1", "2"), "here")] == [int(str(item.label)) for item in found]
    with pytest.raises(DataError, match="here: 0001.png is of class '1'"):
        numbered(found, ("0", "2"), "here")


def test_a_list_gives_any_position_again():
    source = Listed(ordered.of_split(split(), 10, StreamStageConfig()).entries)
    assert list(source.batch(190, 20)) == list(source.entries[190:])
    assert list(source.before(7)) == list(source.entries[:7])
    assert not source.batch(200, 10)


# a watched folder


def watched(root: Path, journal: Path, **more) -> Watched:
    warned: list[str] = []
    settings = {"poll_s": 0.001, "patience_s": 0.0, "idle_s": 0.001, "max_pixels": 10**6, "skips": False, "stop": lambda: False}
    found = Watched(
        root, Journal(journal, root), ("0", "1", "2"), True, **(settings | {"warn": warned.append, "resting": lambda: None} | more)
    )
    found.warned = warned
    return found


def everything(source: Watched, most: int = 8) -> list[str]:
    names: list[str] = []
    while batch := source.batch(len(names), most):
        names += [entry.name for entry in batch]
    return names


def test_files_come_by_their_times_each_once(tmp_path: Path):
    root = folder(tmp_path / "in", 20)
    found = everything(watched(root, tmp_path / "journal"))
    assert [Path(name).stem for name in found] == [f"{place:04d}" for place in range(20)]


def test_another_attempt_has_the_same_batches_and_then_goes_on(tmp_path: Path):
    root, journal = folder(tmp_path / "in", 20), tmp_path / "journal"
    before = everything(watched(root, journal))
    [*_, (image, label)] = digits(21)
    write(root / str(label) / "new.png", image)
    os.utime(root / str(label) / "new.png", (1, 1))  # older than all: it came late
    source = watched(root, journal)
    assert everything(source) == [*before, f"{label}/new.png"]
    assert "samples are learnt as they come" in source.warned[0]


def test_a_batch_keeps_its_borders_whatever_came_meanwhile(tmp_path: Path):
    root, journal = folder(tmp_path / "in", 5), tmp_path / "journal"
    first = watched(root, journal).batch(0, 8)
    folder(root, 20)
    assert watched(root, journal).batch(0, 8) == first
    assert len(first) == 5


def test_a_line_that_a_crash_cut_off_is_forgotten_and_its_files_come_again(tmp_path: Path):
    root, journal = folder(tmp_path / "in", 20), tmp_path / "journal"
    whole = everything(watched(root, journal))
    content = journal.read_bytes()
    journal.write_bytes(content[:-20])
    again = watched(root, journal)
    assert again.journal.length == 16
    assert everything(again) == whole
    assert journal.read_bytes() == content


def test_what_is_being_written_is_not_seen(tmp_path: Path):
    root = folder(tmp_path / "in", 3)
    (root / "0" / ".half.png").write_bytes(b"half")
    (root / "0" / "half.png.tmp").write_bytes(b"half")
    (root / "notes.txt").write_text("nothing")
    assert len(everything(watched(root, tmp_path / "journal"))) == 3


def test_a_file_that_is_no_image_ends_the_watch_or_is_left_out(tmp_path: Path):
    root = folder(tmp_path / "in", 3)
    (root / "0" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad.png: .*on_bad_image=skip"):
        everything(watched(root, tmp_path / "one"))
    assert len(everything(watched(root, tmp_path / "two", skips=True))) == 3


def test_nothing_but_bad_files_is_no_end(tmp_path: Path):
    root = tmp_path / "in"
    (root / "0").mkdir(parents=True)
    (root / "0" / "bad.png").write_bytes(b"no image")
    looks = iter(range(5))
    source = watched(root, tmp_path / "journal", skips=True, idle_s=None, stop=lambda: next(looks, None) is None)
    assert source.batch(0, 8) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"first": 3, "samples": [["a.png", "0", ""]]}',
        '{"first": 0, "samples": []}',
        '{"first": 0, "samples": [["../../etc/passwd", "0", ""]]}',
        '{"first": 0, "samples": [["a.png", 3, ""]]}',
        "[1, 2]",
        "what?",
    ],
)
def test_a_journal_of_somebody_else_is_refused(tmp_path: Path, line: str):
    (tmp_path / "journal").write_text(line + "\n")
    with pytest.raises(CheckpointError, match="line 1 is no batch of a stream"):
        Journal(tmp_path / "journal", tmp_path)
