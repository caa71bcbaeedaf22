"""Text whose characters know who wrote them.

`Text` is a `str` with its provenance kept beside the characters, never in them: there is no marker that a user could
forge. Whatever loses its label on the way (an f-string, `str.strip`, a plain `"".join`) becomes a plain `str`, which no
guarded call accepts without a source and which counts as `unknown` when it is added to a `Text`. So a lost label can
only make a decision stricter.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, overload

from guardtok.errors import NotTextError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

UNKNOWN = "unknown"
"""The source of characters whose origin nobody vouches for."""


class Run(NamedTuple):
    """Consecutive characters of one origin.

    Attributes:
        start: First character in the text that holds the run.
        end: One past its last character there.
        source: Who wrote it.
        path: Where the caller's own string lies in a larger object (`$.messages[0].content`); empty for a bare string.
        offset: Position of the run's first character in that string.
    """

    start: int
    end: int
    source: str
    path: str
    offset: int


class Text(str):
    """A string that knows, for each character, its source, its path and its offset in the caller's own string.

    `+`, slices and `join` keep the labels, in time linear in what they copy. Equality and hashing are those of `str`:
    two texts with the same characters are equal whoever wrote them.

    Args:
        value: The characters. A `Text` is relabelled.
        source: Who wrote them (`user`, `template` …). Checked against the policy when the text is used.
        path: Where the string came from in a larger object, for the record of a violation.

    Raises:
        NotTextError: `value`, `source` or `path` is not a string (a `TypeError`).
    """

    __slots__ = ("_runs",)
    _runs: tuple[Run, ...]

    def __new__(cls, value: str = "", *, source: str, path: str = "") -> Self:
        """Label every character of `value` with one source."""
        if not isinstance(value, str):
            raise NotTextError(f"Text needs a str, not {type(value).__name__}.")
        for name in (source, path):
            if not isinstance(name, str):
                raise NotTextError("The source and the path of a Text are strings.")
        self = str.__new__(cls, str.__str__(value))
        length = len(self)
        self._runs = (Run(0, length, source, path, 0),) if length else ()
        return self

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of one origin, in order, covering every character exactly once."""
        return self._runs

    def __reduce__(self) -> tuple[object, tuple[str, tuple[Run, ...]]]:
        return _rebuild, (str.__str__(self), self._runs)

    def __add__(self, other: str) -> Text:
        return _concatenate((self, other))

    def __radd__(self, other: str) -> Text:
        return _concatenate((other, self))

    def join(self, parts: Iterable[str], /) -> Text:
        """Join `parts` with this text between them; plain strings among them are `unknown`."""
        pieces: list[str] = []
        for part in parts:
            if pieces and self:
                pieces.append(self)
            pieces.append(part)
        return _concatenate(pieces)

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Text: ...
    @overload
    def __getitem__(self, key: slice, /) -> Text | str: ...
    def __getitem__(self, key: SupportsIndex | slice, /) -> Text | str:
        """Return characters with their labels; a slice with a step other than 1 returns a plain `str`."""
        characters = str.__getitem__(self, key)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return characters
        else:
            start = key.__index__()
            start += len(self) if start < 0 else 0
            stop = start + 1
        return _rebuild(characters, _cut(self._runs, start, max(start, stop)))


def runs_of(text: str) -> tuple[Run, ...]:
    """Return the runs of a `Text`, or one `unknown` run for a plain string."""
    if isinstance(text, Text):
        return text.runs
    return (Run(0, len(text), UNKNOWN, "", 0),) if text else ()


def _rebuild(characters: str, runs: tuple[Run, ...]) -> Text:
    text = str.__new__(Text, characters)
    text._runs = runs  # noqa: SLF001 - the one other place that makes a Text
    return text


def _cut(runs: tuple[Run, ...], start: int, stop: int) -> tuple[Run, ...]:
    """Return the part of `runs` between two characters, moved to the beginning."""
    cut: list[Run] = []
    first = max(0, bisect_right(runs, start, key=lambda run: run.start) - 1)
    for run in runs[first:]:
        if run.start >= stop:
            break
        low, high = max(run.start, start), min(run.end, stop)
        if low < high:
            cut.append(Run(low - start, high - start, run.source, run.path, run.offset + low - run.start))
    return tuple(cut)


def _concatenate(pieces: Iterable[str]) -> Text:
    characters: list[str] = []
    runs: list[Run] = []
    length = 0
    for number, piece in enumerate(pieces):
        if not isinstance(piece, str):
            raise NotTextError(f"A Text joins strings, not {type(piece).__name__}.")
        plain = str.__str__(piece)
        characters.append(plain)
        if number == 0:
            runs += runs_of(piece)  # As they are, so that a loop of `+=` copies them and does not make them anew.
            length = len(plain)
            continue
        for run in runs_of(piece):
            moved = Run(run.start + length, run.end + length, run.source, run.path, run.offset)
            if runs and _continues(runs[-1], moved):
                last = runs.pop()
                moved = Run(last.start, moved.end, last.source, last.path, last.offset)
            runs.append(moved)
        length += len(plain)
    return _rebuild("".join(characters), tuple(runs))


def _continues(last: Run, run: Run) -> bool:
    """Whether `run` goes on in the caller's own string exactly where `last` ends, as after a cut."""
    return (
        run.offset > 0
        and last.source == run.source
        and last.path == run.path
        and last.offset + last.end - last.start == run.offset
    )
