"""The file that keeps everything that was paid for: append-only, a line an entry, on the disk before it counts, and one process at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from distillctl.entries import Malformed
from distillctl.errors import CheckpointError, MachineError
from distillctl.files import open_folder, open_to_write, read_trusted
from distillctl.locks import claim_folder
from distillctl.teachers.api.appending import Appender
from distillctl.teachers.api.book import FORMAT_VERSION, Book, answer_entry, begun_entry, dialect_entry, failed_entry, read, written
from distillctl.teachers.api.replies import Answer
from distillctl.teachers.api.requests import Dialect, Request
from distillctl.teachers.api.tokens import Usage

FILE = "ledger.jsonl"


class Ledger:
    """A folder's ledger, opened to write; a context. A last line that a crash cut off never counted, and is taken away."""

    def __init__(self, folder: Path):
        """Raises MachineError where another process has it or nothing can be written, CheckpointError where it is damaged."""
        self.folder, self.file, self.book = folder, folder / FILE, Book()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = claim_folder(folder)
        except OSError as error:
            raise MachineError(f"teacher.ledger={folder}: {error.strerror}; pass a folder that can be written") from None
        if lock is None:
            raise MachineError(f"teacher.ledger={folder}: another process labels by it; wait for its end, or pass another folder")
        self.lock = lock
        try:
            size, self.book = contents(self.file)
            self.handle = open_to_write(self.file, os.O_WRONLY | os.O_APPEND)
            self.lines = Appender(self.handle, os.fstat(self.handle).st_size)
            if size < self.lines.size:
                self.lines.cut(size)
            if not size:
                self.begin_file()
        except OSError as error:
            lock.close()
            raise MachineError(f"teacher.ledger={folder}: {error.strerror}; pass a folder that can be written") from None
        except CheckpointError:
            lock.close()
            raise
        self.next_number = self.book.requests

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)
        self.lock.close()

    async def begin(self, model: str, most: Usage, money: Decimal | None) -> int:
        """A request is about to be sent; its number. Raises MachineError, and it must not be."""
        number, self.next_number = self.next_number, self.next_number + 1
        await self.write(begun_entry(number, model, most, money))
        return number

    async def answered(self, number: int, model: str, request: Request, answer: Answer, money: Decimal | None) -> None:
        await self.write(answer_entry(number, model, request.key, answer, request.most, money, request.size_bytes))

    async def failed(self, number: int, why: str, maybe_paid: bool) -> None:
        await self.write(failed_entry(number, why, maybe_paid))

    async def understood(self, key: str, dialect: Dialect) -> None:
        await self.write(dialect_entry(key, dialect))

    async def write(self, entry: Mapping[str, Any]) -> None:
        """Returns once it is on the disk, and in the book. Raises MachineError, with nothing of it there."""
        line = written(entry)
        try:
            await self.lines.append(line, lambda: self.book.take(read(line)))  # and not `entry`: what is kept is what would be read
        except OSError as error:
            raise MachineError(f"{self.file}: {error.strerror}; nothing more is asked, mend that and go on by the same command") from None

    def begin_file(self) -> None:
        """Its first line, and its name in the folder, on the disk. Raises OSError."""
        self.lines.append_now(written({"kind": "ledger", "format": FORMAT_VERSION}))
        place = open_folder(self.folder)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def contents(file: Path) -> tuple[int, Book]:
    """How many bytes of a ledger are whole, and what they say; of one that there is not, none. Raises CheckpointError and OSError."""
    book, size = Book(), 0
    try:
        content = read_trusted(file)
    except FileNotFoundError:
        return size, book
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise Malformed("it is cut short")
            book.take(read(line))
        except (ValueError, Malformed) as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"{file}: line {number} is damaged ({error}); take that line away, and what it held is asked and paid for again"
            ) from None
        size += len(line)
    return size, book


def look(folder: Path) -> Book:
    """What a ledger says, without holding it: for who only counts. Raises CheckpointError and MachineError."""
    try:
        return contents(folder / FILE)[1]
    except OSError as error:
        raise MachineError(f"teacher.ledger={folder}: {error.strerror}; pass a folder that can be read") from None
