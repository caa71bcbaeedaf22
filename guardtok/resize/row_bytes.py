"""Bytes in a stream: copied in pieces, and compared piece by piece with where they came from.

One thread reads, writes and compares. Others sum up rows, take digests and bring to the disk what is written, all at
the same time. So a copy with a proof takes little longer than a copy.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING, Protocol

from guardtok.errors import CheckpointChangedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

CHUNK = 1 << 20
"""Bytes that are worked on at once, or one row if that is longer: few enough to stay in a processor's own cache until
they are written or compared."""

_SHORTER = "A file of the checkpoint became shorter while it was read. Start again."


class Watcher(Protocol):
    """Sees bytes pass by, in order, in a thread of its own."""

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


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where bytes lie in an open file.

    Attributes:
        file: The file.
        start: Where the first lies.
    """

    file: FileIO
    start: int

    def read(self, buffer: bytearray | memoryview, at: int) -> None:
        """Fill a buffer with what lies from `at` on, counted from the first.

        Raises:
            CheckpointChangedError: The file ends before.
            OSError: The system refused to read.
        """
        got = os.preadv(self.file.fileno(), [buffer], self.start + at)
        while got < len(buffer):
            more = os.preadv(self.file.fileno(), [memoryview(buffer)[got:]], self.start + at + got)
            if not more:
                raise CheckpointChangedError(_SHORTER)
            got += more


class Pump:
    """Moves bytes from file to file and compares them, while other threads look at them and bring them to the disk."""

    def __init__(self, report: Callable[[int], None]) -> None:
        """Take three threads.

        Args:
            report: Called with the number of bytes of each piece.
        """
        self._report = report
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="guardtok-watch")
        self._digests = ThreadPoolExecutor(1, thread_name_prefix="guardtok-digest")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="guardtok-disk")
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Nobody waits for the digest of a table where all is lost.
        self._stopped = error is not None
        for pool in (self._pool, self._digests, self._disk):
            pool.shutdown()

    def move(self, source: FileIO, size: int, target: FileIO, watcher: Watcher | None = None, step: int = 1) -> None:
        """Read so many bytes and write them.

        Args:
            source: Where to read, from where it stands.
            size: How many bytes.
            target: Where to write, from where it stands.
            watcher: Sees each piece, in order.
            step: Pieces are multiples of this.

        Raises:
            CheckpointChangedError: The source ends before.
            OSError: The system refused to read or write.
        """
        pending: list[Future[None] | None] = [None, None]
        most = _piece(step, size)
        buffers = bytearray(most), bytearray(most)
        for turn, at in enumerate(range(0, size, most)):
            _wait(pending[turn % 2])
            view = memoryview(buffers[turn % 2])[: size - at]
            read_exactly(source, view)
            if watcher is not None:
                pending[turn % 2] = self._pool.submit(watcher.see, view, at)
            write_all(target, view)
            self._report(len(view))
        for each in pending:
            _wait(each)

    def digest(self, table: Stretch, size: int, row_bytes: int, fills: tuple[int, ...]) -> Future[str]:
        """Begin to take the SHA-256 of a table without the rows that are overwritten; return what will have it.

        Args:
            table: Where it lies. Its file may be closed meanwhile.
            size: How many bytes.
            row_bytes: Bytes of a row.
            fills: The rows that are left out, ascending.
        """
        # A descriptor of its own: the number of a closed one may soon be another file's.
        own = FileIO(os.dup(table.file.fileno()))
        return self._digests.submit(self._take_digest, Stretch(own, table.start), size, row_bytes, fills)

    def _take_digest(self, table: Stretch, size: int, row_bytes: int, fills: tuple[int, ...]) -> str:
        kept = KeptDigest(row_bytes, fills)
        most = _piece(row_bytes, size)
        buffer = bytearray(most)
        with table.file:
            for at in range(0, size, most):
                if self._stopped:
                    break
                view = memoryview(buffer)[: size - at]
                table.read(view, at)
                kept.see(view, at)
        return kept.hexdigest()

    def same(self, old: Stretch, new: Stretch, size: int, step: int = 1, fills: tuple[int, ...] = ()) -> bool:
        """Read two files and return whether they hold the same bytes; the first difference ends it.

        Args:
            old: One of them.
            new: The other.
            size: How many bytes.
            step: Bytes of a row.
            fills: The rows that may differ, ascending.

        Raises:
            CheckpointChangedError: A file ends before.
            OSError: The system refused to read.
        """
        most = _piece(step, size)
        # Whole `bytearray`s, for their comparison is one of memory; that of views takes every byte by itself.
        left, right = bytearray(most), bytearray(most)
        for at in range(0, size, most):
            if size - at < most:
                left, right = bytearray(size - at), bytearray(size - at)
            old.read(left, at)
            new.read(right, at)
            for place in range(bisect_left(fills, at // step), bisect_left(fills, (at + len(left)) // step)):
                row = slice(fills[place] * step - at, (fills[place] + 1) * step - at)
                right[row] = left[row]
            if left != right:
                return False
            self._report(len(left))
        return True

    def flush(self, target: FileIO, meanwhile: Callable[[], None]) -> None:
        """Bring a file to the disk, and do something else that does not write to it until it is there.

        Raises:
            OSError: The system refused to write.
        """
        flushing = self._disk.submit(os.fsync, target.fileno())
        try:
            meanwhile()
        finally:
            # The system tells of a failed write once, so its answer must not go unheard.
            flushing.result()


def _piece(step: int, size: int) -> int:
    """Return how many bytes to work on at once: whole rows, and no more than there are."""
    return max(1, min(size, max(step, CHUNK // step * step)))


def _wait(pending: Future[None] | None) -> None:
    if pending is not None:
        pending.result()


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
            raise CheckpointChangedError(_SHORTER)
        got += more


def write_all(target: FileIO, view: memoryview | bytes) -> None:
    """Write all of a buffer.

    Raises:
        OSError: The system refused to write.
    """
    rest = memoryview(view)
    while rest:
        rest = rest[target.write(rest) :]
