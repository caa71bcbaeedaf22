"""A file of lines that several processes append to: whole batches, rotated by size, and no line torn or lost between.

Every write holds an advisory lock on `PATH.lock`, so that a rotation, a write and the repair of half a write are one
step each for all processes. A file that somebody else moved away (logrotate) is opened anew.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE = 0o640


class LogFile:
    """Appends to a file, and moves it away when it is full: `PATH` to `PATH.1`, that to `PATH.2`, and so on.

    Args:
        path: The file.
        max_bytes: Its size from which on it is moved away; a batch is never divided over two files.
        keep: Old files that are kept; the oldest beyond them is deleted.
    """

    __slots__ = ("_file", "_keep", "_lock", "_max_bytes", "_path")

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._file: int | None = None
        self._lock: int | None = None

    def write(self, batch: bytes) -> None:
        """Append whole lines. Nothing of them is in the file if this raises.

        Raises:
            OSError: The file cannot be opened, or the disk is full.
        """
        with self._locked():
            file, size = self._open()
            if size and size + len(batch) > self._max_bytes:
                self._rotate()
                file, size = self._open()
            try:
                _write_all(file, batch)
            except OSError:
                # Half a batch would be written twice, and end in half a line.
                os.ftruncate(file, size)
                raise

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        for opened in (self._file, self._lock):
            if opened is not None:
                os.close(opened)
        self._file = self._lock = None

    def _open(self) -> tuple[int, int]:
        """Return the file and its size; opened anew where the path leads to another one."""
        if self._file is not None and not _is_at(self._path, self._file):
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        size = os.fstat(self._file).st_size
        # Who was killed within a write left half a line: it stays one line, and the next one begins behind it.
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            _write_all(self._file, b"\n")
            size += 1
        return self._file, size

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            old = self._numbered(number)
            if old.exists():
                old.replace(self._numbered(number + 1))
        if self._keep:
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if sys.platform == "win32":  # No such lock there: one process to a file.
            yield
            return
        import fcntl

        if self._lock is None:
            path = self._path.with_name(f"{self._path.name}.lock")
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


class LogStream:
    """Appends to an open stream, such as standard output."""

    __slots__ = ("_rest", "_stream")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, batch: bytes) -> None:
        """Write whole lines.

        Raises:
            OSError: The stream is closed or broken.
        """
        try:
            self._stream.write(batch)
            self._stream.flush()
        except ValueError:
            raise BrokenPipeError from None  # A closed file says so.

    def close(self) -> None:
        """Leave the stream open: it is the application's."""


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def _write_all(file: int, data: bytes) -> None:
    """Write with one call to the system; with more only where it takes less at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
