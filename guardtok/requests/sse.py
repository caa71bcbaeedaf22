"""Server-sent events, read as they come and written as they were: the framing of every streamed reply.

The threat is two readers: what one takes for an event another takes for a comment. So an event is cut out by the rules
of the standard (WHATWG HTML, §9.2.6), its bytes are kept line by line, and a changed event differs in its data alone.
What ends without the blank line that ends an event is an event too: the standard drops it, many clients do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guardtok.errors import NotTextError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENT = 32 * 1024 * 1024
"""So many bytes of one event are kept: a whole answer with pictures in it, which the Responses API sends last."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK = frozenset({b"\n", b"\r", b"\r\n"})
_MARK = "\ufeff".encode()
_BLANKS = bytes(range(0x21)) + _MARK


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came.

    Attributes:
        lead: Bytes before it that belong to no line of it: a byte order mark, or the rest of a line end that was cut.
        lines: Its lines with their ends, the blank one that ends it included if it came.
        data: What its `data` lines say, joined by line feeds, or None where it has none.
        name: What its last `event` line says, or None where it has none.
    """

    lead: bytes
    lines: tuple[bytes, ...] = field(repr=False)
    data: bytes | None = field(repr=False)
    name: str | None = None

    def raw(self) -> bytes:
        """Return its bytes, but for the lead."""
        return b"".join(self.lines)

    @property
    def is_ambiguous(self) -> bool:
        """Whether a line of it is data for clients that strip lines, and none by the standard."""
        names = [_field_of(line)[0] for line in self.lines]
        return any(name != b"data" and name.strip(_BLANKS).lower() == b"data" for name in names)

    def with_data(self, data: bytes) -> bytes:
        """Return its bytes, but for the lead, with other data in one line; every other line stays as it is."""
        written: list[bytes] = []
        for line in self.lines:
            if _field_of(line)[0] != b"data":
                written.append(line)
            elif data:
                written += b"data: ", data, _end_of(line) or b"\n"
                data = b""
        if self.lines[-1] not in _BLANK:
            # The body ended before the line that ends the event.
            written += b"" if _end_of(written[-1]) else b"\n", b"\n"
        return b"".join(written)


class EventReader:
    """Cuts bytes, however they come, into events. Time and memory are linear in the bytes of an event."""

    __slots__ = ("_cut", "_lead", "_limit", "_line", "_lines", "_size", "_started")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        """Begin a body; `limit` bounds the bytes of one event."""
        self._limit = limit
        self._lead = b""
        self._lines: list[bytes] = []
        self._line: list[bytes] = []  # the pieces of the line that has no end yet
        self._size = 0
        self._cut = False  # whether the last byte was a CR that ended a line, to which an LF may still belong
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that a chunk completes.

        Raises:
            RequestError: An event is larger than the limit.
            NotTextError: The chunk is not bytes (a `TypeError`).
        """
        if not isinstance(chunk, bytes):
            raise NotTextError(f"A reply's stream is fed bytes, not {type(chunk).__name__}.")
        start = 0
        if self._cut and chunk.startswith(b"\n"):
            start = 1
            if self._lines:
                self._lines[-1] += b"\n"
            else:
                self._lead = b"\n"
        self._cut = False if chunk else self._cut
        for found in _LINE_END.finditer(chunk, start):
            self._add(chunk[start : found.end()])
            start = found.end()
            self._end_line()
            self._cut = start == len(chunk) and found.group() == b"\r"
            if self._lines[-1] in _BLANK:
                yield self._make()
        if start < len(chunk):
            self._add(chunk[start:])
        if self._lead and not self._lines and not self._line:
            # Nothing else came: the rest of a line end goes on alone.
            lead, self._lead = self._lead, b""
            yield Event(lead, (), None)

    def finish(self) -> Event | None:
        """Return what the body ended with, if it did not end with the blank line that ends an event."""
        if self._line:
            self._end_line()
        return self._make() if self._lines else None

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._lines.clear()
            self._line.clear()
            raise RequestError(
                "reply.events", "$", f"an event has more than {self._limit:,} bytes; nothing of it was passed on."
            )
        self._line.append(piece)

    def _end_line(self) -> None:
        line = b"".join(self._line)
        self._line.clear()
        if not self._started:
            self._started = True
            if line.startswith(_MARK):
                self._lead, line = _MARK, line[len(_MARK) :]
        self._lines.append(line)

    def _make(self) -> Event:
        lead, lines = self._lead, tuple(self._lines)
        self._lead, self._lines, self._size = b"", [], 0
        fields = [*map(_field_of, lines)]
        data = [value for name, value in fields if name == b"data"]
        names = [value.decode(errors="replace") for name, value in fields if name == b"event"]
        return Event(lead, lines, b"\n".join(data) if data else None, names[-1] if names else None)


def write_event(name: str | None, data: bytes) -> bytes:
    """Return the bytes of a new event of one data line."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def _field_of(line: bytes) -> tuple[bytes, bytes]:
    """Return a line's field and value; the field of a comment and of a blank line is empty."""
    name, _, value = line.rstrip(b"\r\n").partition(b":")
    return name, value.removeprefix(b" ")


def _end_of(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]
