"""A cache folder that others can write to: what they left is not believed unasked, not followed and not written through; and clocks that were wrong."""

import contextlib
import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from test_store import EVERYTHING, LAYOUT, PARTS, ROWS, answers, marks

from distillctl.errors import MachineError
from distillctl.locks import claim_folder
from distillctl.runs import registry
from distillctl.teachers.caches import Cache, caches, read_parts
from distillctl.teachers.store import ABOUT, Store, folder_of, open_store

OTHER = 54321  # somebody else's number
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def opened(root: Path, said: list[str] | None = None, writes: bool = True, everybody: bool = False) -> Store:
    return open_store(root, PARTS, LAYOUT, ROWS, (said if said is not None else []).append, writes, everybody)


def written(root: Path) -> Path:
    """A cache with all answers to one view, and its folder."""
    store = opened(root)
    store.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    store.lock.close()
    return store.folder


def count(store: Store) -> int:
    return int(store.read(0, EVERYTHING, marks())[1].sum())


def as_other(work: Callable[[], None]) -> None:
    """Do something in another process, as another user; what it raises is a failed test."""
    child = os.fork()
    if not child:
        try:
            os.setgid(OTHER)
            os.setuid(OTHER)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def give(folder: Path, user: int = OTHER) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


@as_root
def test_answers_of_another_user_are_read_only_where_asked(tmp_path):
    root = tmp_path / "cache"
    give(written(root))
    with pytest.raises(MachineError, match="another user's.*trust_group=true") as error:
        opened(root)
    assert "\n" not in str(error.value)
    assert count(opened(root, everybody=True)) == ROWS


@as_root
def test_a_file_of_another_user_in_a_folder_of_ours_is_not_read(tmp_path):
    folder, said = written(tmp_path / "cache"), []
    os.chown(folder / "view-00000.bin", OTHER, OTHER)
    assert count(opened(tmp_path / "cache", said, writes=False)) == 0
    assert "another user's" in said[0]
    assert count(opened(tmp_path / "cache", everybody=True)) == ROWS


def test_what_anybody_may_change_is_nobody_s_word(tmp_path):
    folder = written(tmp_path / "cache")
    folder.chmod(0o777)
    with pytest.raises(MachineError, match="others may change it"):
        opened(tmp_path / "cache")


@as_root
def test_what_can_be_read_and_not_written_is_read(tmp_path):
    for place in (tmp_path, *list(tmp_path.parents)[:3]):  # workers of the tests have folders of their own
        place.chmod(0o755)
    written(tmp_path / "cache")  # by root, whom everybody believes

    def work() -> None:
        store = opened(tmp_path / "cache")
        assert not store.writes
        assert count(store) == ROWS
        store.write(1, EVERYTHING, marks(), LAYOUT.encode(answers()))
        assert not store.file(1).exists()
        assert claim_folder_fails(store.folder)

    as_other(work)


def claim_folder_fails(folder: Path) -> bool:
    try:
        return claim_folder(folder) is None
    except PermissionError:
        return True


def test_a_group_shares_by_its_umask(tmp_path):
    before = os.umask(0o002)
    try:
        folder = written(tmp_path / "cache")
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())} == {
        folder.name: "0o775",
        ".lock": "0o664",
        ABOUT: "0o664",
        "view-00000.bin": "0o664",
    }


@pytest.mark.parametrize("name", [".lock", "view-00000.bin", f".{ABOUT}.PID.tmp"])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link(tmp_path, name, there):
    root, victim = tmp_path / "cache", tmp_path / "victim"
    folder = folder_of(root, PARTS)
    folder.mkdir(parents=True)
    if there:
        victim.write_text("mine")
    (folder / name.replace("PID", str(os.getpid()))).symlink_to(victim)
    with contextlib.suppress(MachineError):
        store = opened(root)
        store.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert victim.read_text() == "mine" if there else not victim.exists()


def test_a_folder_that_is_a_link_is_not_used(tmp_path):
    root, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    folder_of(root, PARTS).symlink_to(elsewhere)
    with pytest.raises(MachineError, match="symbolic link"):
        opened(root)
    assert not list(elsewhere.iterdir())
    (elsewhere / ABOUT).write_text("{}")
    assert not list(caches(root)), "it would be pruned"


def test_records_are_not_written_into_another_file_of_ours(tmp_path):
    (tmp_path / "mine").write_text("mine")
    store, said = opened(tmp_path / "cache"), []
    store.warn = said.append
    os.link(tmp_path / "mine", store.file(0))
    store.write(0, EVERYTHING, marks(), LAYOUT.encode(answers()))
    assert (tmp_path / "mine").read_text() == "mine"
    assert "hard link" in said[0]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir], ids=["pipe", "device", "folder"])
def test_a_view_that_is_no_file_is_as_good_as_none(tmp_path, make):
    store, said = opened(tmp_path / "cache"), []
    store.warn = said.append
    make(store.file(0))
    assert count(store) == 0
    assert said


def test_who_only_reads_is_not_pruned_meanwhile(tmp_path):
    folder = written(tmp_path / "cache")
    store = opened(tmp_path / "cache", writes=False)
    assert not Cache(folder, PARTS).remove()
    assert count(store) == ROWS
    store.lock.close()
    assert Cache(folder, PARTS).remove()


# ------------------------------------------------------------------------------------------------ cache.json
MANIFESTS = {
    "teachers": (None, 0, -1, "1", 10**9, [1], True),
    "classes": (None, 0, -7, 10**12, 7.5, "7"),
    "dtype": (None, "fp8", 16, ["fp16"], "x" * 10**5),
    "top_k": (0, -1, 8, 10**12, "3", [3]),
    "samples": (None, 0, -40, 10**15, "40", {}),
    "features": ([], "x", {"a": 3}, {"a": ["x"]}, {"a": [0]}, {"a": [-1]}, {"a": [10**5, 10**5]}, {"a": [[1]]}),
    "teacher": (3, ["x"], {}),
    "weights": (3, [], {"a": 1}),
    "data_set": (3, [], False),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_read_entry_by_entry(tmp_path, name, distillctl):
    """Under the right name, which whoever wrote it can work out: it is listed as one that nothing reads."""
    values = MANIFESTS[name]
    for value in values:
        parts = PARTS | {name: value}
        folder = folder_of(tmp_path / "cache", parts)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).write_text(json.dumps({"format_version": 2, "parts": parts}))
        (folder / "view-00000.bin").write_bytes(bytes(1000))
        (folder / "view-0000x.bin").symlink_to("nowhere")
        assert read_parts(folder / ABOUT) is None, value
    for words in (["cache"], ["cache", "action=verify"], ["cache", "action=prune", "older_than_days=9"]):
        finished = distillctl(*words, f"dir={tmp_path / 'cache'}", cwd=tmp_path)
        assert finished.code == 0, finished.err
    assert len(list(caches(tmp_path / "cache"))) == len(values)


@pytest.mark.parametrize("content", ["", "[]", "3", "[" * 10**5, '{"format_version": 2}', '{"format_version": 2, "parts": []}', "\x00"])
def test_a_manifest_that_is_none_is_one_line(tmp_path, content, distillctl):
    (tmp_path / "cache/abc").mkdir(parents=True)
    (tmp_path / "cache/abc" / ABOUT).write_text(content)
    assert distillctl("cache", f"dir={tmp_path / 'cache'}", cwd=tmp_path).code == 0


# ------------------------------------------------------------------------------------------------ teachers
STAGE = {"val_top1": 0.5}


def entry(tmp_path: Path, **changed: object) -> Path:
    """An entry of a teacher, as `register` writes it, with a script that would run."""
    stage = tmp_path / "run/pretrain"
    stage.mkdir(parents=True, exist_ok=True)
    for name in registry.files_of("teacher"):
        (stage / name).write_text("x")
    sums = {name: hashlib.sha256(b"x").hexdigest() for name in registry.files_of("teacher")}
    content = {"file": str(stage / "teacher.safetensors"), "files": sums, "run": str(tmp_path / "run"), "stage": STAGE} | changed
    file = tmp_path / "entry.json"
    file.write_text(json.dumps(content))
    return file


def test_an_entry_names_what_it_names(tmp_path):
    found = registry.look_up(entry(tmp_path), "teacher")
    assert found is not None
    assert found.stage == STAGE


@pytest.mark.parametrize(
    "changed",
    [{"file": 3}, {"file": None}, {"file": "a\0b"}, {"files": []}, {"files": {"teacher.json": 3}}, {"stage": "done"}]
    + [{"stage": {"a": json.loads("[" * 300 + "]" * 300)}}, {"run": []}, {"file": "/dev/zero"}, {"file": "x" * 10**5}],
)
def test_an_entry_is_read_entry_by_entry(tmp_path, changed):
    assert registry.look_up(entry(tmp_path, **changed), "teacher") is None


@as_root
@pytest.mark.parametrize("name", ["entry.json", "run/pretrain/teacher.safetensors", "run/pretrain/teacher.json"])
def test_a_teacher_of_another_user_is_taken_only_where_asked(tmp_path, name):
    file, said = entry(tmp_path), []
    os.chown(tmp_path / name, OTHER, OTHER)
    assert registry.look_up(file, "teacher", warn=said.append) is None
    assert "trust_group=true" in said[0]
    assert registry.look_up(file, "teacher", everybody=True) is not None


def test_a_teacher_is_not_taken_through_a_link(tmp_path):
    file = entry(tmp_path)
    weights = tmp_path / "run/pretrain/teacher.safetensors"
    weights.rename(tmp_path / "secret")
    weights.symlink_to(tmp_path / "secret")
    assert registry.look_up(file, "teacher", everybody=True) is None


@as_root
def test_an_entry_of_another_user_is_not_taken_away(tmp_path):
    file = entry(tmp_path)
    assert registry.is_free(file)
    assert registry.is_free(tmp_path / "none")
    os.chown(file, OTHER, OTHER)
    assert not registry.is_free(file)


# ------------------------------------------------------------------------------------------------ clocks
def dated(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("when", [lambda: time.time() + 86400 * 400, lambda: 0.0, lambda: 86400.0 * 365 * 10, lambda: 2.0**33])
def test_a_cache_whose_clock_was_wrong_is_not_pruned_by_age(tmp_path, when, distillctl):
    """After a start without a battery a machine believes that it is 1970, and what it writes then is not old."""
    folder = written(tmp_path / "cache")
    dated(folder, when())
    assert Cache(folder, PARTS).idle_days is None
    finished = distillctl("cache", "action=prune", "older_than_days=1", f"dir={tmp_path / 'cache'}", cwd=tmp_path)
    assert finished.code == 0
    assert "a clock is or was wrong" in finished.out + finished.err
    assert folder.exists()
    assert "?" in distillctl("cache", f"dir={tmp_path / 'cache'}", cwd=tmp_path).out
    distillctl("cache", "action=prune", "all=true", f"dir={tmp_path / 'cache'}", cwd=tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("now", [0.0, 86400.0 * 365 * 30])
def test_while_the_clock_is_wrong_nothing_is_pruned_by_age(tmp_path, now, monkeypatch):
    folder = written(tmp_path / "cache")
    monkeypatch.setattr("time.time", lambda: now)
    assert Cache(folder, PARTS).idle_days is None


def test_clocks_of_two_machines_may_differ_a_little(tmp_path):
    folder = written(tmp_path / "cache")
    dated(folder, time.time() + 60)
    assert Cache(folder, PARTS).idle_days == 0
    dated(folder, time.time() - 86400 * 3)
    assert Cache(folder, PARTS).idle_days == pytest.approx(3, abs=0.01)
