r"""One text of a reply that comes in fragments, each with the place that it has in the whole reply.

The threat is the second spelling: `\u003c|im_end|>` in the arguments of a call is no form, and what reads them finds
one. So of a text that is JSON, every escape of a character that may stand in a string of JSON as it is becomes that
character before the text is looked at. What goes on is then JSON of the same meaning, in its shortest spelling.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.ruleset import Ruleset
    from guardtok.stream import Stream
    from guardtok.violation import Violation

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(u[0-9a-fA-F]{0,3}\Z|\Z)|.)", re.DOTALL)
"""An escape in JSON; the second group is one that is not all there yet."""

_ESCAPED = frozenset({'"', "\\", *map(chr, range(32))})
"""What a string of JSON can only hold as an escape."""


def has_escaped_forms(ruleset: Ruleset) -> bool:
    """Whether a form holds a character that JSON can only spell as an escape."""
    return any(not _ESCAPED.isdisjoint(form.text) for form in ruleset.forms)


class Unescaper:
    """Spells JSON that comes in chunks as plainly as JSON can be spelled. What is no JSON loses no character but `\\`."""

    __slots__ = ("_cut",)

    def __init__(self) -> None:
        self._cut = ""

    def feed(self, chunk: str) -> str:
        """Return what a chunk, and an escape that was cut, spell."""
        if not self._cut and "\\" not in chunk:
            return chunk
        text, self._cut = self._cut + chunk, ""
        return _ESCAPE.sub(self._spell, text)

    def finish(self) -> str:
        """Return the escape that was never ended, as it came."""
        cut, self._cut = self._cut, ""
        return cut

    def _spell(self, found: re.Match[str]) -> str:
        digits, cut = found.groups()
        escape = found.group()
        if cut is not None:
            self._cut = escape
            return ""
        if digits is not None:
            character = chr(int(digits, 16))
            return escape if character in _ESCAPED else character
        return "/" if escape == "\\/" else escape


class Channel:
    """One text of a reply.

    Attributes:
        path: Where the text lies in the whole reply.
        ended: Whether nothing may come any more.
    """

    __slots__ = ("_given", "_made", "_shown", "_stream", "_unescaper", "ended", "path")

    def __init__(self, stream: Stream, path: str, shown: str, *, json: bool, keep: bool) -> None:
        """Begin a text.

        Args:
            stream: What it goes through.
            path: Where it lies in the whole reply.
            shown: The same, for records.
            json: Whether it is JSON.
            keep: Whether what came and what went on are kept, for a reply that says the text once more.
        """
        self._stream = stream
        self._unescaper = Unescaper() if json else None
        self._given: list[str] | None = [] if keep else None
        self._made: list[str] = []
        self.path = path
        self.ended = False
        self._shown = shown

    @property
    def count(self) -> int:
        """How many matches were not allowed so far."""
        return self._stream.count

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What was found so far, each with the place of the text."""
        return tuple(self.placed(self._stream.violations))

    def placed(self, violations: Iterable[Violation]) -> list[Violation]:
        """Return records of the text with its place in them."""
        return [replace(violation, path=self._shown) for violation in violations]

    @property
    def restated(self) -> tuple[str, str] | None:
        """The whole text as it came and as it went on, if they were kept and something was found or respelled."""
        if self._given is None:
            return None
        given, made = "".join(self._given), "".join(self._made)
        return (given, made) if self.count or given != made else None

    def feed(self, fragment: str) -> str:
        """Take a fragment, and return what can go on.

        Raises:
            GuardtokError: What `Stream.feed` raises.
        """
        spelled = fragment if self._unescaper is None else self._unescaper.feed(fragment)
        made = self._stream.feed(spelled)
        self._note(fragment, made)
        return made

    def finish(self) -> str:
        """End the text, and return what was held back.

        Raises:
            GuardtokError: What `Stream.finish` raises.
        """
        self.ended = True
        rest = self._stream.feed(self._unescaper.finish()) if self._unescaper is not None else ""
        rest += self._stream.finish()
        self._note("", rest)
        return rest

    def close(self) -> None:
        """Give the text up."""
        self.ended = True
        self._stream.close()

    def _note(self, given: str, made: str) -> None:
        if self._given is not None:
            self._given.append(given)
            self._made.append(made)


class HeldText:
    r"""A text of JSON that waits until it is whole: a form holds a character that JSON can only spell as an escape.

    Attributes:
        path: Where the text lies in the whole reply.
        ended: Whether nothing may come any more.
        restated: Nothing: who judges the text notes what became of it.
        count: Nothing, likewise.
        violations: Nothing, likewise.
    """

    __slots__ = ("_given", "_judge", "_room", "ended", "path")

    restated = None
    count = 0
    violations: tuple[Violation, ...] = ()

    def __init__(self, path: str, judge: Callable[[str], str], room: int) -> None:
        """Begin a text; `judge` returns what becomes of it whole, and refuses one of more characters than `room`."""
        self.path = path
        self.ended = False
        self._judge = judge
        self._room = room
        self._given: list[str] = []

    @staticmethod
    def placed(violations: Iterable[Violation]) -> list[Violation]:
        """Return records as they are: they have their places."""
        return list(violations)

    def feed(self, fragment: str) -> str:
        """Take a fragment; nothing goes on yet.

        Raises:
            GuardtokError: What `judge` raises of a text that is too long.
        """
        self._given.append(fragment)
        self._room -= len(fragment)
        if self._room < 0:
            self._judge("".join(self._given))
        return ""

    def finish(self) -> str:
        """End the text, and return what becomes of it.

        Raises:
            GuardtokError: What `judge` raises.
        """
        self.ended = True
        return self._judge("".join(self._given))

    def close(self) -> None:
        """Give the text up."""
        self.ended = True
        self._given.clear()
