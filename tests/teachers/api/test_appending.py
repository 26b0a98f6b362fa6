"""Lines are on the disk before their writers go on, in order, many at once; what fails leaves nothing behind."""

import asyncio
import os
from pathlib import Path

import pytest

from distillctl.teachers.api.appending import Appender


def appended(file: Path, lines: list[bytes]) -> tuple[list[bytes], list[object]]:
    """What was told, in order, and what each writer got."""
    told: list[bytes] = []

    async def everybody() -> list[object]:
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        appender = Appender(handle, 0)
        try:
            return await asyncio.gather(
                *(appender.append(line, lambda line=line: told.append(line)) for line in lines), return_exceptions=True
            )
        finally:
            os.close(handle)

    return told, asyncio.run(everybody())


def test_writers_side_by_side_share_what_they_wait_for(tmp_path: Path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), real(handle)))
    lines = [f"line {place}\n".encode() for place in range(50)]
    told, got = appended(tmp_path / "file", lines)
    assert told == lines
    assert got == [None] * 50
    assert (tmp_path / "file").read_bytes() == b"".join(lines)
    assert synced[-1] == len(b"".join(lines))
    assert len(synced) < 10


def test_nobody_goes_on_before_the_disk_has_it(tmp_path: Path, monkeypatch):
    seen, real = [], os.fsync

    def slow(handle: int) -> None:
        real(handle)
        seen.append("on the disk")

    monkeypatch.setattr(os, "fsync", slow)

    async def one_after_another() -> None:
        handle = os.open(tmp_path / "file", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        appender = Appender(handle, 0)
        for line in (b"a\n", b"b\n"):
            await appender.append(line, lambda: seen.append("told"))
            seen.append("goes on")
        os.close(handle)

    asyncio.run(one_after_another())
    assert seen == ["on the disk", "told", "goes on"] * 2


def test_a_write_that_fails_leaves_nothing_and_the_next_may_go_well(tmp_path: Path, monkeypatch):
    real, left = os.fsync, [2]

    def once_full(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", once_full)
    file = tmp_path / "file"

    async def three() -> list[str]:
        handle, told = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), []
        appender = Appender(handle, 0)
        for line in (b"first\n", b"second\n", b"third\n"):
            try:
                await appender.append(line, lambda: told.append("told"))
            except OSError as error:
                told.append(error.strerror)
        os.close(handle)
        return told

    assert asyncio.run(three()) == ["told", "No space left on device", "told"]
    assert file.read_bytes() == b"first\nthird\n"


def test_a_writer_that_has_left_holds_nobody_up(tmp_path: Path):
    async def leave() -> list[str]:
        handle, told = os.open(tmp_path / "file", os.O_WRONLY | os.O_APPEND | os.O_CREAT), []
        appender = Appender(handle, 0)
        leaving = asyncio.create_task(appender.append(b"a\n", lambda: told.append("a")))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await appender.append(b"b\n", lambda: told.append("b"))
        os.close(handle)
        return told

    assert asyncio.run(leave()) == ["a", "b"]
    assert (tmp_path / "file").read_bytes() == b"a\nb\n"
