"""One text of a reply that comes in fragments, with the place that it has in the whole reply."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.stream import Stream
    from guardtok.violation import Violation


class Channel:
    """One text of a reply.

    Attributes:
        path: Where the text lies in the whole reply.
        ended: Whether nothing may come any more.
    """

    __slots__ = ("_given", "_made", "_shown", "_stream", "ended", "path")

    def __init__(self, stream: Stream, path: str, shown: str, *, keep: bool) -> None:
        """Begin a text.

        Args:
            stream: What it goes through.
            path: Where it lies in the whole reply.
            shown: The same, for records.
            keep: Whether what came and what went on are kept, for a reply that says the text once more.
        """
        self._stream = stream
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
        """The whole text as it came and as it went on, if they were kept and something was found."""
        if self._given is None:
            return None
        given, made = "".join(self._given), "".join(self._made)
        return (given, made) if self.count else None

    def feed(self, fragment: str) -> str:
        """Take a fragment, and return what can go on.

        Raises:
            GuardtokError: What `Stream.feed` raises.
        """
        made = self._stream.feed(fragment)
        self._note(fragment, made)
        return made

    def finish(self) -> str:
        """End the text, and return what was held back.

        Raises:
            GuardtokError: What `Stream.finish` raises.
        """
        self.ended = True
        rest = self._stream.finish()
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
