"""Which rows of an Arrow column does the guard have to see? Most hold nothing, and are told by searching bytes.

The need is time: a corpus is read at a gigabyte a second, and to make a Python string of each row takes longer than
that. Arrow keeps the rows of a column side by side in one buffer of UTF-8, so one search tells of thousands of rows. A
row that is passed over here is never looked at again: a mistake that passes one is a hole, and one that stops a row
costs microseconds.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guardtok.errors import is_failure
from guardtok.scan import find
from guardtok.views import Sieve, make_sieve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from guardtok.ruleset import Ruleset

BLOCK = 1 << 17
"""So many bytes are searched in one go, or one row, if it is longer: what is searched stays in a processor's cache."""

_WIDEST = 4
"""Bytes of the longest character."""


@dataclass(frozen=True, slots=True)
class Sifter:
    """Finds the rows in which something may be found. Made by `make_sifter`.

    Attributes:
        ruleset: What is looked for.
        sieve: Finds where forms may begin, in disguise too; None where disguises do not matter.
        blind: Whether every row has to be seen: the tokenizer's normaliser makes forms of what does not spell them.
        longest: So many bytes may hold more characters than the policy takes.
    """

    ruleset: Ruleset = field(repr=False)
    sieve: Sieve | None = field(repr=False)
    blind: bool
    longest: int

    def sift(self, column: pa.Array) -> list[int]:
        """Return the rows that the guard has to see, ascending: none in which it would find something is left out.

        Args:
            column: Strings or large strings, well-formed UTF-8; null rows are never returned.
        """
        offsets, data = read_buffers(column)
        rows = range(len(column)) if self.blind else self._sift(offsets, data)
        if not column.null_count:
            return list(rows)
        valid = column.is_valid()
        return [row for row in rows if valid[row].as_py()]

    def sift_texts(self, texts: Sequence[str | bytes]) -> list[int]:
        """Return the places in a list of the texts that the guard has to see, ascending.

        Args:
            texts: Strings, or bytes that are to be UTF-8. What is ill-formed, or has a lone surrogate, is to be seen.
        """
        offsets, parts, ill_formed = array("q", (0,)), [], set()
        for index, text in enumerate(texts):
            data = _encode(text)
            if data is None:
                ill_formed.add(index)
            parts.append(data or b"")
            offsets.append(offsets[-1] + len(parts[-1]))
        rows = range(len(texts)) if self.blind else self._sift(memoryview(offsets), memoryview(b"".join(parts)))
        return sorted(ill_formed.union(rows))

    def is_suspect(self, data: bytes) -> bool:
        """Whether the guard has to see one text, in well-formed UTF-8."""
        rows = self._sift(memoryview(array("q", (0, len(data)))), memoryview(data))
        return self.blind or next(rows, None) is not None

    def _sift(self, offsets: memoryview, data: memoryview) -> Iterator[int]:
        rows, first = len(offsets) - 1, 0
        block_size = min(BLOCK, self.longest)  # So that a row that is too long is one by itself.
        while first < rows:
            start = offsets[first]
            end = max(first + 1, bisect_right(offsets, start + block_size, first + 1) - 1)
            if offsets[end] - start > self.longest:
                yield first
            elif offsets[end] > start:
                block = bytes(data[start : offsets[end]])
                yield from self._sift_block(block, first, [offset - start for offset in offsets[first : end + 1]])
            first = end

    def _sift_block(self, block: bytes, first: int, offsets: list[int]) -> Iterator[int]:
        """Yield the rows of a block of texts that lie side by side, the first of which has this number."""
        try:
            found = self._find_places(block)
        except BaseException as error:
            if not is_failure(error):
                raise
            # The guard meets the same failure, row by row, and says so.
            yield from range(first, first + len(offsets) - 1)
            return
        by_row: dict[int, list[int]] = {}
        for place in found:
            # Of empty rows at a place and one that is not, the last begins there.
            by_row.setdefault(bisect_right(offsets, place) - 1, []).append(place)
        for row in sorted(by_row):
            start = offsets[row]
            data, places = block[start : offsets[row + 1]], [place - start for place in by_row[row]]
            if self._holds(data, places):
                yield first + row

    def _find_places(self, block: bytes) -> Iterable[int]:
        if self.sieve is None:
            return {start for _, start, _ in find(block, self.ruleset.automata)}
        return self.sieve.find_places(block)

    def _holds(self, data: bytes, places: list[int]) -> bool:
        """Whether a row that is no longer beside others holds something. Where that is not known it does."""
        try:
            if self.sieve is None:
                return True
            worth_reading = self.sieve.narrow(data, places)
            if not worth_reading:
                return False
            if find(data, self.ruleset.automata):
                return True
            return self.sieve.holds_disguise(data.decode(), data, worth_reading)
        except BaseException as error:
            if not is_failure(error):
                raise
            return True


def _encode(text: str | bytes) -> bytes | None:
    try:
        return text.encode() if isinstance(text, str) else text.decode().encode()
    except UnicodeError:
        return None


def make_sifter(ruleset: Ruleset, source: str) -> Sifter:
    """Return what sifts the texts of a source.

    Args:
        ruleset: What is looked for.
        source: Who wrote the texts, a source that the policy knows.
    """
    return Sifter(
        ruleset,
        make_sieve(ruleset.lookout) if source in ruleset.watched else None,
        ruleset.rules is not None and ruleset.rules.folding is not None,
        ruleset.policy.limits.max_chars,
    )


def read_buffers(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Return where the rows of a column begin and the last one ends, and the bytes that they are in.

    Args:
        column: Strings or large strings.
    """
    import pyarrow as pa

    _, offsets, data = column.buffers()
    wide = pa.types.is_large_string(column.type)
    if offsets is None or len(column) == 0:
        return memoryview(bytes(8)).cast("q"), memoryview(b"")
    where = memoryview(offsets).cast("B").cast("q" if wide else "i")
    return where[column.offset : column.offset + len(column) + 1], memoryview(data or b"").cast("B")
