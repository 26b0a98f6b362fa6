"""Records of answers: what is read is what was written, and a record that is not whole is none, whatever was done to it."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillctl.errors import MachineError
from distillctl.teachers import store as files
from distillctl.teachers.caches import caches, nearest
from distillctl.teachers.records import KEPT, Layout, input_marks, layout_for
from distillctl.teachers.store import Store, fingerprint_of, folder_of, open_store

ROWS, CLASSES = 40, 7
LAYOUT = Layout(1, CLASSES)
PARTS = {"weights": "a" * 64, "view_seed": 3, "teachers": 1, "classes": CLASSES, "dtype": "fp16", "top_k": None, "samples": ROWS}
EVERYTHING = np.arange(ROWS)


def answers(seed: int = 0, count: int = ROWS) -> torch.Tensor:
    return 5 * torch.randn(count, 1, CLASSES, generator=torch.Generator().manual_seed(seed))


def marks(seed: int = 0, count: int = ROWS) -> np.ndarray:
    images = torch.randint(0, 256, (count, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return input_marks(images)


def fresh(folder: Path, secret: str = "one", said: list[str] | None = None, writes: bool = True) -> Store:
    folder.mkdir(parents=True, exist_ok=True)
    return Store(folder, secret, LAYOUT, ROWS, (said if said is not None else []).append, writes)


def filled(folder: Path, views: tuple[int, ...] = (0,)) -> Store:
    kept = fresh(folder)
    for view in views:
        kept.write(view, EVERYTHING, marks(view), LAYOUT.encode(answers(view)))
    return kept


# ------------------------------------------------------------------------------------------------ the bytes of a record
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("classes", [2, 7, 10])
def test_all_logits_come_back_as_they_were_rounded(dtype, teachers, classes):
    layout, logits = Layout(teachers, classes, dtype), torch.randn(4, teachers, classes) * 9
    words = layout.encode(logits)
    assert words.shape == (4, layout.words)
    rounded = logits if dtype == "fp32" else logits.half().float()
    assert torch.equal(layout.decode(words), rounded)
    assert torch.equal(layout.decode(layout.encode(rounded)), rounded)


@pytest.mark.parametrize(("classes", "top_k"), [(1000, 16), (40_000, 3), (7, 6)])
def test_the_rest_of_the_mass_is_spread_evenly(classes, top_k):
    layout, logits = Layout(2, classes, "fp32", top_k), torch.randn(5, 2, classes, dtype=torch.float64) * 3
    assert layout.encode(logits).shape == (5, layout.words)
    decoded = layout.decode(layout.encode(logits)).double()
    p, q = logits.softmax(-1), decoded.softmax(-1)
    place = logits.topk(top_k, dim=-1).indices
    torch.testing.assert_close(q.gather(-1, place), p.gather(-1, place), rtol=1e-5, atol=1e-9)
    rest = (1 - p.gather(-1, place).sum(-1)) / (classes - top_k)
    others = torch.ones_like(q).scatter(-1, place, 0).bool()
    torch.testing.assert_close(q[others].view(5, 2, -1), rest[..., None].expand(-1, -1, classes - top_k), rtol=1e-4, atol=1e-9)


def test_many_classes_are_cut_and_few_are_not():
    assert layout_for(1, 256, "fp16", None).top_k is None
    assert layout_for(1, 257, "fp16", None).top_k == KEPT
    assert layout_for(1, 10, "fp16", 10).top_k is None
    assert layout_for(1, 10, "fp16", 3).top_k == 3


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 5, 5), (3, 80, 81)])
def test_every_bit_of_an_image_counts_in_its_mark(shape):
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    before = input_marks(images)
    assert len({*before.tolist()}) == 3
    assert input_marks(images[1:2]).tolist() == before[1:2].tolist()  # whatever the batch
    assert input_marks(images.contiguous(memory_format=torch.channels_last)).tolist() == before.tolist()
    for position in torch.randint(0, images[0].numel(), (40,)).tolist():
        for bit in range(8):
            changed = images.clone()
            changed[0].view(-1)[position] ^= 1 << bit
            assert input_marks(changed)[0] != before[0]


def test_the_mark_is_the_hash_it_is_said_to_be():
    from distillctl.draws import bits

    image = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    keys = [key % 2**64 for key in bits(0, "image", torch.arange(12)).tolist()]
    words = [int.from_bytes(image.flatten()[i : i + 4].numpy().tobytes(), "little", signed=True) for i in range(0, 48, 4)]
    assert input_marks(image).tolist() == [sum(key * word for key, word in zip(keys, words, strict=True)) % 2**64 >> 32]


# ------------------------------------------------------------------------------------------------ files
def test_what_was_written_is_read_by_another_process_and_in_any_order(tmp_path):
    filled(tmp_path, (0, 5))
    kept = fresh(tmp_path, writes=False)
    for view in (5, 0):
        rows = np.random.default_rng(view).permutation(ROWS)
        words, there = kept.read(view, rows, marks(view)[rows])
        assert there.all()
        assert torch.equal(LAYOUT.decode(words), answers(view)[rows].half().float())
        assert kept.begun(view).sum() == ROWS


def test_what_was_never_written_is_absent(tmp_path):
    kept = fresh(tmp_path)
    kept.write(0, EVERYTHING[3:5], marks()[3:5], LAYOUT.encode(answers()[3:5]))
    _, there = kept.read(0, EVERYTHING, marks())
    assert np.flatnonzero(there).tolist() == [3, 4]
    assert not kept.read(1, EVERYTHING, marks())[1].any()
    assert (kept.begun(0).sum(), kept.begun(1).sum(), kept.told) == (2, 0, set())


def test_an_answer_to_another_image_is_not_used(tmp_path):
    filled(tmp_path)
    said: list[str] = []
    kept = fresh(tmp_path, said=said)
    other = marks()
    other[7] ^= 1
    assert np.flatnonzero(~kept.read(0, EVERYTHING, other)[1]).tolist() == [7]
    assert len(said) == 1
    assert "other images" in said[0]
    kept.read(0, EVERYTHING, other)
    assert len(said) == 1


def test_every_flipped_bit_of_a_record_is_noticed(tmp_path):
    file = filled(tmp_path).file(0)
    good, size = file.read_bytes(), (LAYOUT.words + 2) * 4
    for bit in range(8 * size):
        bad = bytearray(good)
        bad[9 * size + bit // 8] ^= 1 << bit % 8
        file.write_bytes(bad)
        kept = fresh(tmp_path)
        assert np.flatnonzero(~kept.read(0, EVERYTHING, marks())[1]).tolist() == [9]
        assert kept.inspected(0)[0].sum() == ROWS - 1


@pytest.mark.parametrize("left", [0, 1, 100, 24 * 24 + 13, 40 * 24 - 1])
@pytest.mark.parametrize("writes", [True, False])
def test_a_truncated_file_loses_what_was_cut_off_and_no_more(left, writes, tmp_path):
    before = filled(tmp_path)
    size = before.size * 4
    assert size == 24
    os.truncate(before.file(0), left)
    kept = fresh(tmp_path, writes=writes)
    words, there = kept.read(0, EVERYTHING, marks())
    assert np.flatnonzero(there).tolist() == list(range(left // size))
    assert torch.equal(LAYOUT.decode(words[there]), answers()[: left // size].half().float())
    if writes:
        kept.write(0, EVERYTHING[~there], marks()[~there], LAYOUT.encode(answers())[~there])
        assert kept.read(0, EVERYTHING, marks())[1].all()


def test_records_of_another_cache_view_or_row_are_not_believed(tmp_path):
    file = filled(tmp_path).file(0)
    assert not fresh(tmp_path, secret="two").read(0, EVERYTHING, marks())[1].any()
    file.with_name("view-00001.bin").write_bytes(file.read_bytes())
    assert not fresh(tmp_path).read(1, EVERYTHING, marks())[1].any()
    content = np.fromfile(file, np.uint32).reshape(ROWS, -1)
    content[[4, 5]] = content[[5, 4]]
    content.tofile(file)
    swapped = marks()
    swapped[[4, 5]] = swapped[[5, 4]]
    assert np.flatnonzero(~fresh(tmp_path).read(0, EVERYTHING, swapped)[1]).tolist() == [4, 5]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_costs_a_warning_and_what_was_kept_stays(number, tmp_path, monkeypatch):
    said: list[str] = []
    kept, whole, left = fresh(tmp_path, said=said), os.pwrite, [10]

    def limited(descriptor: int, content: bytes, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return whole(descriptor, content, offset)

    monkeypatch.setattr(files.os, "pwrite", limited)
    for _ in range(3):
        kept.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert len(said) == 1
    assert os.strerror(number) in said[0]
    assert np.flatnonzero(kept.read(0, EVERYTHING, marks())[1]).tolist() == list(range(10))


def test_room_is_left_for_others_on_the_disk(tmp_path, monkeypatch):
    said: list[str] = []
    kept = fresh(tmp_path, said=said)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda place: SimpleNamespace(free=files.SPARE + kept.view_bytes - 1))
    kept.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert len(said) == 1
    assert os.strerror(errno.ENOSPC) in said[0]
    assert not kept.read(0, EVERYTHING, marks())[1].any()


def test_a_write_that_ends_early_is_a_full_disk(tmp_path, monkeypatch):
    said: list[str] = []
    kept, whole = fresh(tmp_path, said=said), os.pwrite
    monkeypatch.setattr(files.os, "pwrite", lambda descriptor, content, offset: whole(descriptor, content[:9], offset))
    kept.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert len(said) == 1
    assert os.strerror(errno.ENOSPC) in said[0]
    assert not fresh(tmp_path).read(0, EVERYTHING, marks())[1].any()


def write_forever(folder: Path, seed: int) -> None:
    kept = fresh(folder)
    while True:
        kept.write(0, EVERYTHING, marks(), LAYOUT.encode(answers(seed)))


def test_a_writer_that_is_killed_leaves_nothing_that_is_wrong(tmp_path):
    expected = answers(1).half().float()
    for round_number in range(3):
        writer = multiprocessing.get_context("fork").Process(target=write_forever, args=(tmp_path, 1))
        writer.start()
        while not (tmp_path / "view-00000.bin").exists():
            time.sleep(0.001)
        time.sleep(0.003 * round_number)
        os.kill(writer.pid, signal.SIGKILL)  # type: ignore[arg-type]
        writer.join()
        words, there = fresh(tmp_path).read(0, EVERYTHING, marks())
        assert torch.equal(LAYOUT.decode(words[there]), expected[there])
    kept = fresh(tmp_path)
    kept.write(0, EVERYTHING, marks(), LAYOUT.encode(answers(1)))
    assert kept.inspected(0)[0].all()


def test_two_writers_at_once_leave_whole_answers_of_either(tmp_path):
    fresh(tmp_path)
    writers = [multiprocessing.get_context("fork").Process(target=write_forever, args=(tmp_path, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        reader, looks, seen = fresh(tmp_path, writes=False), 0, 0
        until = time.monotonic() + 10
        while looks < 200 and time.monotonic() < until:
            reader.current = None
            words, there = reader.read(0, EVERYTHING, marks())
            decoded = LAYOUT.decode(words)
            one, other = ((decoded == answers(seed).half().float()).flatten(1).all(1) for seed in (1, 2))
            assert bool((one | other)[torch.from_numpy(there)].all())
            looks, seen = looks + 1, seen + int(there.sum())
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert seen > 0


# ------------------------------------------------------------------------------------------------ folders
def test_a_cache_is_found_by_everything_that_decides_its_answers(tmp_path):
    kept = open_store(tmp_path, PARTS, LAYOUT, ROWS, print)
    assert kept.folder == folder_of(tmp_path, dict(reversed(PARTS.items())))
    assert json.loads((kept.folder / "cache.json").read_text())["parts"] == PARTS
    for name in PARTS:
        assert folder_of(tmp_path, {**PARTS, name: 17}) != kept.folder
    [found] = caches(tmp_path)
    assert found.parts == PARTS
    assert nearest(tmp_path, {**PARTS, "view_seed": 4, "weights": "b" * 64}) == [
        "view_seed (3, here 4)",
        f"weights ({'a' * 12}..., here {'b' * 12}...)",
    ]
    assert nearest(tmp_path / "empty", PARTS) == []


def test_a_description_that_was_changed_is_not_believed(tmp_path):
    kept = open_store(tmp_path, PARTS, LAYOUT, ROWS, print)
    file = kept.folder / "cache.json"
    good = file.read_text()
    for bad in (good.replace("aaaa", "bbbb"), good[:-20], "[]", good.replace('"format_version": ', '"format_version": 9')):
        file.write_text(bad)
        [found] = caches(tmp_path)
        assert found.parts is None
        assert found.store(print) is None


def test_a_cache_that_a_run_holds_is_not_removed(tmp_path):
    kept = open_store(tmp_path, PARTS, LAYOUT, ROWS, print)
    second = open_store(tmp_path, PARTS, LAYOUT, ROWS, print)  # any number of runs may
    [found] = caches(tmp_path)
    assert not found.remove()
    kept.lock.close()
    assert not found.remove()
    second.lock.close()
    assert found.remove()
    assert not found.folder.exists()
    again = open_store(tmp_path, PARTS, LAYOUT, ROWS, print)
    again.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert again.begun(0).sum() == ROWS


def test_a_folder_that_goes_away_costs_a_warning(tmp_path):
    import shutil

    said: list[str] = []
    kept = open_store(tmp_path, PARTS, LAYOUT, ROWS, said.append)
    shutil.rmtree(kept.folder)
    kept.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert not kept.read(0, EVERYTHING, marks())[1].any()
    assert len(said) == 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="teacher.cache.dir") as error:
        open_store(tmp_path / "file", PARTS, LAYOUT, ROWS, print)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_pinned():
    """Another one would make every cache worthless."""
    assert fingerprint_of({"b": 1, "a": [1.5, None, "x"]}) == fingerprint_of({"a": [1.5, None, "x"], "b": 1})
    assert fingerprint_of({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
