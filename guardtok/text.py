"""Text whose characters know who wrote them.

`Text` is a `str` with its provenance kept beside the characters, never in them: there is no marker that a user could
forge. The methods that cut, join and recase keep the labels. Whatever loses them on the way (an f-string, `encode`, a
plain `"".join`) becomes a plain `str`, which no guarded call accepts without a source and which counts as `unknown`
when it is added to a `Text`. So a lost label can only make a decision stricter.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeVar, overload

from guardtok.errors import NotTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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


_DIRECTIVE = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(?:\d+|\*)?(?:\.(?:\d+|\*)?)?[hlL]?.", re.DOTALL)
"""One directive of the `%` operator."""


class Text(str):
    """A string that knows, for each character, its source, its path and its offset in the caller's own string.

    `+`, `*`, `%`, slices, iteration, `join`, `split` and its kin, `strip` and its kin, `replace` and changes of case
    keep the labels, in time linear in what they copy. Equality and hashing are those of `str`: two texts with the
    same characters are equal whoever wrote them. Every other method gives a plain `str`.

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

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return labelled, (str.__str__(self), self._runs, type(self))

    def __add__(self, other: str) -> Text:
        if not isinstance(other, str):
            return NotImplemented
        if isinstance(other, Text) and (mine := self._runs) and (its := other._runs):
            length = len(self)
            # What stands on the left is taken as it is, so that a loop of `+=` copies its runs and makes none anew.
            if len(its) == 1 and not its[0].offset:
                _, end, source, path, _ = its[0]
                runs = (*mine, Run(length, length + end, source, path, 0))
                return labelled(str.__add__(self, other), runs)
        return _concatenate((self, other))

    def __radd__(self, other: str) -> Text:
        if not isinstance(other, str):
            return NotImplemented
        return _concatenate((other, self))

    def __mul__(self, times: SupportsIndex) -> Text:
        return _concatenate([self] * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:  # noqa: ANN401 - as `str` has it
        """Fill `%` directives in: the literals keep their labels, and so does what a bare `%s` puts in."""
        plain = str.__mod__(self, values)
        given = iter(values if isinstance(values, tuple) else (values,))
        pieces: list[str] = []
        last = 0
        for found in _DIRECTIVE.finditer(self):
            pieces.append(self[last : found.start()])
            last = found.end()
            directive = found.group()
            if "*" in directive:  # A width out of the values; nobody writes that, so its labels may go.
                return plain
            if directive == "%%":
                pieces.append(self[last - 1 : last])
                continue
            named = directive[1] == "("
            key = directive[2 : directive.index(")")] if named else ""
            if named and key not in values:  # It holds parentheses; nobody writes that either.
                return plain
            value = values[key] if named else next(given, None)
            bare = directive[-1] == "s" and (named or len(directive) == len("%s")) and directive[-2] in "%)"
            pieces.append(
                value if bare and isinstance(value, str) else str.__mod__(directive, values if named else (value,))
            )
        spelled = _concatenate([*pieces, self[last:]])
        return spelled if spelled == plain else plain

    def __iter__(self) -> Iterator[Text]:
        for start, end, source, path, offset in self._runs:
            for index in range(start, end):
                yield labelled(str.__getitem__(self, index), (Run(0, 1, source, path, offset + index - start),))

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
        return labelled(characters, _cut(self._runs, start, max(start, stop)), type(self))

    def _at(self, start: int, part: str) -> Text:
        """Return the characters `part` of this text, which begin at `start`, with their labels."""
        if len(part) == len(self):
            return self
        return labelled(part, _cut(self._runs, start, start + len(part)), type(self))

    def strip(self, chars: str | None = None, /) -> Text:
        """Return the text without these characters, or white space, at both ends."""
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> Text:
        """Return the text without these characters, or white space, at its beginning."""
        rest = str.lstrip(self, chars)
        return self._at(len(self) - len(rest), rest)

    def rstrip(self, chars: str | None = None, /) -> Text:
        """Return the text without these characters, or white space, at its end."""
        return self._at(0, str.rstrip(self, chars))

    def removeprefix(self, prefix: str, /) -> Text:
        """Return the text without a prefix that it may begin with."""
        rest = str.removeprefix(self, prefix)
        return self._at(len(self) - len(rest), rest)

    def removesuffix(self, suffix: str, /) -> Text:
        """Return the text without a suffix that it may end with."""
        return self._at(0, str.removesuffix(self, suffix))

    def _find_all(self, parts: Iterable[str]) -> Iterator[Text]:
        """Yield parts of this text, which stand in it in this order with nothing like the next one between them."""
        position = 0
        for part in parts:
            start = str.find(self, part, position)
            yield self._at(start, part)
            position = start + len(part)

    def _split(self, parts: list[str], separator: str | None) -> list[Text]:
        if separator is None:
            return list(self._find_all(parts))
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + len(part) + len(separator))
        return [self._at(start, part) for start, part in zip(ends, parts, strict=False)]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Text]:  # type: ignore[override]
        """Return the parts between separators, or between stretches of white space."""
        return self._split(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Text]:  # type: ignore[override]
        """Return the parts between separators, counted from the end."""
        return self._split(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Text]:  # type: ignore[override]  # noqa: FBT001, FBT002 - as str has it
        """Return the lines, with their ends where asked for."""
        lines, start = [], 0
        for line, whole in zip(str.splitlines(self, keepends), str.splitlines(self, keepends=True), strict=True):
            lines.append(self._at(start, line))
            start += len(whole)
        return lines

    def partition(self, sep: str, /) -> tuple[Text, Text, Text]:
        """Return what stands before the first separator, the separator, and what stands after it."""
        before, found, after = str.partition(self, sep)
        middle = len(before)
        return self._at(0, before), self._at(middle, found), self._at(middle + len(found), after)

    def rpartition(self, sep: str, /) -> tuple[Text, Text, Text]:
        """Return what stands before the last separator, the separator, and what stands after it."""
        before, found, after = str.rpartition(self, sep)
        middle = len(before)
        return self._at(0, before), self._at(middle, found), self._at(middle + len(found), after)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Text:
        """Return the text with `new`, under its own labels, in the place of `old`."""
        if not old:
            characters = [*self]
            limit = len(self) + 1 if (asked := count.__index__()) < 0 else min(asked, len(self) + 1)
            inserted = [new] * limit + [""] * (len(self) + 1 - limit)
            return _concatenate([piece for pair in zip(inserted, [*characters, ""], strict=True) for piece in pair])
        if str.find(self, old) < 0:
            return self
        pieces: list[str] = []
        for part in self.split(old, count):
            pieces += (new, part) if pieces else (part,)
        return _concatenate(pieces)

    def upper(self) -> str:
        """Return the text in upper case. A run that gets longer keeps its source, not its place."""
        return _recase(self, str.upper)

    def lower(self) -> str:
        """Return the text in lower case. A run that gets longer keeps its source, not its place."""
        return _recase(self, str.lower)

    def casefold(self) -> str:
        """Return the text for caseless comparison. A run that gets longer keeps its source, not its place."""
        return _recase(self, str.casefold)

    def title(self) -> str:
        """Return the text with each word capitalised. A run that gets longer keeps its source, not its place."""
        return _recase(self, str.title)

    def capitalize(self) -> str:
        """Return the text with a capital first. A run that gets longer keeps its source, not its place."""
        return _recase(self, str.capitalize)

    def swapcase(self) -> str:
        """Return the text with its case inverted. A run that gets longer keeps its source, not its place."""
        return _recase(self, str.swapcase)


def _recase(text: Text, recase: Callable[[str], str]) -> str:
    """Change the case. One `İ` makes a text longer; whoever writes it must not cost others their labels."""
    characters = recase(text)
    if len(characters) == len(text):
        return recased(text, characters)
    runs: list[Run] = []
    end = 0
    for start, stop, source, path, offset in text.runs:
        before = str.__getitem__(text, slice(max(start - 1, 0), start))  # All that a character's new length depends on.
        own = str.__getitem__(text, slice(start, stop))
        size = len(recase(before + own)) - len(recase(before))
        place = (path, offset) if size == len(own) else ("", 0)
        runs.append(Run(end, end + size, source, *place))
        end += size
    return labelled(characters, tuple(runs), type(text)) if end == len(characters) else characters


def recased(text: str, characters: str) -> str:
    """Return `characters` with the labels of `text`, one for one; plain where there are more of them, or less."""
    if isinstance(text, Text) and len(text) == len(characters):
        return labelled(characters, text.runs, type(text))
    return characters


def runs_of(text: str) -> tuple[Run, ...]:
    """Return the runs of a `Text`, or one `unknown` run for a plain string."""
    if isinstance(text, Text):
        return text.runs
    return (Run(0, len(text), UNKNOWN, "", 0),) if text else ()


_T = TypeVar("_T", bound=Text)


@overload
def labelled(characters: str, runs: tuple[Run, ...]) -> Text: ...
@overload
def labelled(characters: str, runs: tuple[Run, ...], kind: type[_T]) -> _T: ...
def labelled(characters: str, runs: tuple[Run, ...], kind: type[Text] = Text) -> Text:
    """Return a `Text` of these characters and runs, which cover each of them once, in order. For guardtok's own use."""
    text = str.__new__(kind, characters)
    text._runs = runs  # noqa: SLF001 - the one other place that makes a Text
    return text


def _cut(runs: tuple[Run, ...], start: int, stop: int) -> tuple[Run, ...]:
    """Return the part of `runs` between two characters, moved to the beginning."""
    cut: list[Run] = []
    first = max(0, bisect_right(runs, start, key=lambda run: run.start) - 1)
    for index in range(first, len(runs)):
        run = runs[index]
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
    return labelled("".join(characters), tuple(runs))


def _continues(last: Run, run: Run) -> bool:
    """Whether `run` goes on in the caller's own string exactly where `last` ends, as after a cut."""
    return (
        run.offset > 0
        and last.source == run.source
        and last.path == run.path
        and last.offset + last.end - last.start == run.offset
    )
