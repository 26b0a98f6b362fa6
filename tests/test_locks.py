"""Locks between processes: one has a file or a byte of it, many hold a folder."""

import multiprocessing
import shutil
from pathlib import Path

from distillctl.locks import NAME, claim_folder, hold_folder, lock_byte, lock_file, open_lock, unlock_byte


def tried(path: Path, byte: int | None, answers) -> None:
    with open_lock(path) as file:
        answers.put(lock_file(file) if byte is None else lock_byte(file, byte, patience_s=0.02))


def elsewhere(path: Path, byte: int | None = None) -> bool:
    """Whether another process gets the lock."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=tried, args=(path, byte, answers))
    process.start()
    process.join()
    return answers.get()


def test_a_file_has_one_holder_until_it_is_closed(tmp_path):
    with open_lock(tmp_path / "lock") as file:
        assert lock_file(file)
        assert not elsewhere(tmp_path / "lock")
    assert elsewhere(tmp_path / "lock")


def test_bytes_are_locked_one_by_one_and_behind_the_end(tmp_path):
    with open_lock(tmp_path / "records") as file:
        assert lock_byte(file, 1000, patience_s=1)
        assert not elsewhere(tmp_path / "records", 1000)
        assert elsewhere(tmp_path / "records", 1001)
        unlock_byte(file, 1000)
        assert elsewhere(tmp_path / "records", 1000)
        assert file.seek(0, 2) == 0
    unlock_byte(file, 1000)  # closed: nothing is left to free


def test_a_folder_with_users_cannot_be_claimed(tmp_path):
    folder = tmp_path / "new"
    one, other = hold_folder(folder), hold_folder(folder)
    assert claim_folder(folder) is None
    one.close()
    assert claim_folder(folder) is None
    other.close()
    with claim_folder(folder) as lock:
        assert lock is not None
        shutil.rmtree(folder)
    hold_folder(folder).close()
    assert (folder / NAME).exists()
