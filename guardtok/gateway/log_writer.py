"""Lines that are written by one thread, in their order, while those who hand them over go on at once."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from guardtok.errors import is_failure
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = "guardtok.decision_log_failed"
"""The event that is logged once when nothing can be written any more."""

RECOVERED = "guardtok.decision_log_recovered"
"""The event that is logged when it can again."""

_BATCH = 1 << 20
"""Bytes that are written at once, at most, but for a line that is longer."""

_RETRY = 1.0
"""Seconds between two tries to write."""

_CLOSING = 5.0
"""Seconds that `close` waits for what is left to be written."""


class Target(Protocol):
    """Takes whole lines: all of them, or none and an `OSError`."""

    def write(self, batch: bytes, /) -> None:
        """Write lines."""

    def close(self) -> None:
        """Give back what is open."""


class LogWriter:
    """Writes lines to a target; `put` never waits for it. A closed writer begins again with the next line.

    What waits at the interpreter's end is written then, whenever it began.

    Args:
        target: Where they go.
        lost: Makes the line that tells how many are lost.
        delay: Seconds for which lines are collected before they are written.
        buffer: Bytes that may wait; what comes beyond them is lost.
        failed: Told `decision_log_write` for each try that failed, `decision_log_lost` for each line that is lost.
    """

    __slots__ = (
        "_batch",
        "_buffer",
        "_closing",
        "_delay",
        "_failed",
        "_failing",
        "_lines",
        "_lost",
        "_lost_line",
        "_process",
        "_size",
        "_state",
        "_target",
        "_thread",
        "_writing",
    )

    def __init__(
        self, target: Target, lost: Callable[[int], bytes], delay: float, buffer: int, failed: Callable[[str], object]
    ) -> None:
        self._target = target
        self._lost_line = lost
        self._delay = delay
        self._buffer = buffer
        self._failed = failed
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._state = threading.Condition()
        # Held for a batch from taking it to having written it, and while the target is closed.
        self._writing = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._batch = b""
        self._size = 0
        self._lost = 0
        self._failing = self._closing = False
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Take a line, with its line feed."""
        if self._process != os.getpid():
            # A fork has neither its parent's thread nor a claim on what waits there, and shares its locks.
            self._target.close()
            self._begin()
        with self._state:
            kept = self._size + len(line) <= self._buffer
            if kept:
                self._tell_lost()
                self._append(line)
            else:
                self._lost += 1
            if self._thread is None:
                atexit.register(self.close)
                self._thread = threading.Thread(target=self._run, name="guardtok-log", daemon=True)
                self._thread.start()
            if len(self._lines) == 1:  # Else it is awake, and collects.
                self._state.notify()
        if not kept:
            self._failed("decision_log_lost")

    def close(self) -> None:
        """Write what waits, for at most five seconds. What cannot be written is lost, and logged as that."""
        if self._process != os.getpid():
            return
        with self._state:
            self._closing = True
            thread = self._thread
            self._state.notify()
        if thread is not None:
            thread.join(_CLOSING)
        if thread is None or not thread.is_alive():
            with self._state:
                self._thread, self._closing = None, False
                atexit.unregister(self.close)
            self._drain()
            with self._writing:
                self._target.close()
        with self._state:
            left = self._lost + self._batch.count(b"\n") + len(self._lines)
        if left:
            _log(FAILED, lost=left)

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)

    def _tell_lost(self) -> None:
        if self._lost:
            self._append(self._lost_line(self._lost))
            self._lost = 0

    def _run(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._lines or self._batch or self._lost or self._closing)
                self._state.wait_for(lambda: self._closing, _RETRY if self._failing else self._delay)
                closing = self._closing
            self._drain()
            if closing:
                return

    def _drain(self) -> None:
        """Write what waits, until nothing does or it cannot be written."""
        with self._writing:
            while self._take() and self._write():
                pass

    def _take(self) -> bool:
        """Take the next batch, unless one is still to be written. Return whether there is one."""
        with self._state:
            if not self._batch:
                self._tell_lost()
                size = 0
                lines: list[bytes] = []
                while self._lines and (not lines or size + len(self._lines[0]) <= _BATCH):
                    size += len(self._lines[0])
                    lines.append(self._lines.popleft())
                self._batch = b"".join(lines)
            return bool(self._batch)

    def _write(self) -> bool:
        try:
            self._target.write(self._batch)
        except BaseException as error:
            if not is_failure(error):
                raise
            if not self._failing:
                reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
                _log(FAILED, reason=visible(reason))
            self._failing = True
            self._failed("decision_log_write")
            return False
        with self._state:
            self._size -= len(self._batch)
            self._batch = b""
        if self._failing:
            self._failing = False
            _log(RECOVERED)
        return True


def _log(event: str, **facts: object) -> None:
    import structlog

    logger = structlog.get_logger("guardtok")
    (logger.info if event == RECOVERED else logger.error)(event, **facts)
