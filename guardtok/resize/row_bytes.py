"""Bytes in a stream: copied in pieces, seen by whoever has to see them, and proven by a digest.

Disk and digest work at the same time: one thread reads and writes, one hashes, and one brings to the disk what is
written, long before the end. So a copy with a proof takes little longer than a copy.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from guardtok.errors import CheckpointChangedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from types import TracebackType

    from typing_extensions import Self

CHUNK = 8 << 20
"""Bytes that are read at once; no row is longer."""


_FLUSH = 64 << 20
"""Bytes after which what was written is brought to the disk, while more is written."""


class Watcher(Protocol):
    """Sees bytes pass by, in order."""

    def see(self, view: memoryview, at: int) -> None:
        """Take in bytes that begin at `at`, counted from the first that passed by."""


class KeptDigest:
    """SHA-256 over a table without the rows that are overwritten."""

    def __init__(self, row_bytes: int, fills: tuple[int, ...]) -> None:
        """Begin.

        Args:
            row_bytes: Bytes of a row.
            fills: The rows that are left out, ascending.
        """
        self._row_bytes, self._fills, self._hash = row_bytes, fills, hashlib.sha256()

    def see(self, view: memoryview, at: int) -> None:
        """Take in whole rows."""
        first, size = at // self._row_bytes, self._row_bytes
        begin = 0
        for place in range(bisect_left(self._fills, first), len(self._fills)):
            row = (self._fills[place] - first) * size
            if row >= len(view):
                break
            self._hash.update(view[begin:row])
            begin = row + size
        self._hash.update(view[begin:])

    def hexdigest(self) -> str:
        """Return the digest of all that passed by."""
        return self._hash.hexdigest()


class Pump:
    """Reads a file piece by piece, shows each piece to watchers in another thread, and writes it."""

    def __init__(self, report: Callable[[int], None]) -> None:
        """Take two buffers and a thread.

        Args:
            report: Called with the number of bytes of each piece.
        """
        self._report = report
        self._buffers = bytearray(CHUNK), bytearray(CHUNK)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="guardtok-digest")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="guardtok-disk")
        self._flushing: Future[None] | None = None
        self._unflushed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        self._disk.shutdown()

    def move(
        self, source: FileIO, size: int, watchers: tuple[Watcher, ...], target: FileIO | None = None, step: int = 1
    ) -> None:
        """Read so many bytes and write them.

        Args:
            source: Where to read, from where it stands.
            size: How many bytes.
            watchers: See each piece, in order.
            target: Where to write; None to look only.
            step: Pieces are multiples of this.

        Raises:
            CheckpointChangedError: The source ends before.
            OSError: The system refused to read or write.
        """

        def show(view: memoryview, at: int) -> None:
            for watcher in watchers:
                watcher.see(view, at)

        pending: list[Future[None] | None] = [None, None]
        most = CHUNK // step * step
        turn = 0
        for at in range(0, size, most):
            before = pending[turn]
            if before is not None:
                before.result()
            view = memoryview(self._buffers[turn])[: min(most, size - at)]
            read_exactly(source, view)
            pending[turn] = self._pool.submit(show, view, at)
            if target is not None:
                write_all(target, view)
                self._flush_some(target, len(view))
            self._report(len(view))
            turn = 1 - turn
        for last in pending:
            if last is not None:
                last.result()

    def _flush_some(self, target: FileIO, count: int) -> None:
        """Begin to bring a file to the disk if much was written and no other part is on its way."""
        self._unflushed += count
        if self._unflushed >= _FLUSH and (self._flushing is None or self._flushing.done()):
            self._unflushed = 0
            self._settle()
            self._flushing = self._disk.submit(os.fsync, target.fileno())

    def _settle(self) -> None:
        """Wait for what is on its way. The system tells of a failed write once, so no answer may go unheard.

        Raises:
            OSError: The system refused to write.
        """
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            flushing.result()

    def flush(self, target: FileIO, meanwhile: Callable[[], None]) -> None:
        """Bring a file to the disk, and do something else that does not write to it until it is there.

        Raises:
            OSError: The system refused to write.
        """
        self._settle()
        self._unflushed = 0
        self._flushing = self._disk.submit(os.fsync, target.fileno())
        try:
            meanwhile()
        finally:
            self._settle()


def read_exactly(source: FileIO, view: memoryview) -> None:
    """Fill a buffer.

    Raises:
        CheckpointChangedError: The file ends before.
        OSError: The system refused to read.
    """
    got = 0
    while got < len(view):
        more = source.readinto(view[got:])
        if not more:
            raise CheckpointChangedError("A file of the checkpoint became shorter while it was read. Start again.")
        got += more


def write_all(target: FileIO, view: memoryview | bytes) -> None:
    """Write all of a buffer.

    Raises:
        OSError: The system refused to write.
    """
    rest = memoryview(view)
    while rest:
        rest = rest[target.write(rest) :]
