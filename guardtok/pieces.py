"""The stretches that an output is made of, and how the text between tokens is read.

Ordinary text is not cut where one source ends and another begins: a tokenizer would merge over that border in the
unguarded pipeline, and so it does here. What is stripped is deleted in one pass, and cannot be made to reassemble.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Span

REPLACEMENT = "\ufffd"
"""Stays in the place of a cut where the text before it could be the beginning of a form."""


class Piece(NamedTuple):
    """A stretch of the output.

    Attributes:
        text: Its characters, without those that were cut.
        origins: Where they came from: pairs of a position in `text` and the position in the intake of the stretch that
            begins there; -1 in place of the latter is a U+FFFD that was put in.
        token_id: The id of an allowed token, or None for ordinary text.
        normalized: Whether `text` is what the tokenizer's normaliser made of it.
    """

    text: str
    origins: tuple[tuple[int, int], ...]
    token_id: int | None
    normalized: bool = False


class Reader:
    """Reads the text from left to right and leaves out the cuts.

    Where what is left of a cut ends in a proper prefix of a form, U+FFFD stays in the gap: nothing that follows can
    complete the form, so nothing reassembles and one pass is enough.
    """

    def __init__(self, text: str, cuts: tuple[Span, ...], ruleset: Ruleset) -> None:
        self._text = text
        self._cuts = cuts
        self._next = 0
        self._ruleset = ruleset
        self._tail = ""  # the end of what was kept so far, as long as the longest form

    def take(self, start: int, end: int, token_id: int | None) -> Piece:
        """Return the characters between two positions as one piece; no cut lies there."""
        text = self._text[start:end]
        if self._cuts:
            self._tail = (self._tail + text)[-self._ruleset.longest :]
        return Piece(text, ((0, start),), token_id)

    def read(self, start: int, end: int) -> Piece:
        """Return the ordinary text between two positions without its cuts."""
        cuts = self._cuts_before(end)
        if not cuts:
            return self.take(start, end, None)
        kept: list[Piece] = []
        for cut in cuts:
            if start < cut.start:
                kept.append(self.take(start, cut.start, None))
            if self._may_begin_form():
                kept.append(Piece(REPLACEMENT, ((0, -1),), None))
                self._tail = REPLACEMENT
            start = max(start, cut.end)
        if start < end:
            kept.append(self.take(start, end, None))
        origins: list[tuple[int, int]] = []
        length = 0
        for piece in kept:
            origins.append((length, piece.origins[0][1]))
            length += len(piece.text)
        return Piece("".join(piece.text for piece in kept), tuple(origins), None)

    def _cuts_before(self, end: int) -> tuple[Span, ...]:
        first = self._next
        while self._next < len(self._cuts) and self._cuts[self._next].start < end:
            self._next += 1
        return self._cuts[first : self._next]

    def _may_begin_form(self) -> bool:
        return any(self._tail[-size:] in self._ruleset.prefixes for size in range(1, len(self._tail) + 1))
