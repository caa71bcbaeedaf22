"""Decided text → the edits that make it safe to go on as text: separators put in, stretches taken out.

One pass from left to right, and each edit depends on nothing that a stream could not know by then, so a text that comes
in chunks gets the edits that it would get whole.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from guardtok.breaking import REPLACEMENT
from guardtok.lookalikes import longest_disguise
from guardtok.policy.model import Reaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from guardtok.beginnings import Beginnings
    from guardtok.breaking import Breaker
    from guardtok.decide import Decided
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Span


_STRICT = frozenset({Reaction.ESCAPE, Reaction.BLOCK})
"""What `lookalikes` says where a disguise may not stay."""


class Edit(NamedTuple):
    """One change of a text.

    Attributes:
        start: Position in the original of the first character that was removed, or that follows what was inserted.
        position: Position in the result of what was inserted, or of what follows the gap.
        removed: The characters that were removed; they stood at `start` in the original.
        inserted: The characters that stand at `position` in the result in their place.
    """

    start: int
    position: int
    removed: str
    inserted: str


class Editor:
    """Edits one text, whole or window by window.

    Where the text left of a cut ends in a proper prefix of a form, U+FFFD stays in the gap. Only what was kept since
    the gap before has to be looked at: either U+FFFD stood there, or nothing before it was such a prefix, and then
    nothing that goes on from it is one.
    """

    __slots__ = (
        "_beginnings",
        "_breaker",
        "_broken",
        "_cut",
        "_forms",
        "_gained",
        "_lookout",
        "_prefixes",
        "_reach",
        "_separators",
        "_since",
    )

    def __init__(self, ruleset: Ruleset, breaker: Breaker, beginnings: Beginnings, sources: Iterable[str]) -> None:
        self._prefixes = ruleset.prefixes
        self._reach = ruleset.longest - 1
        self._breaker = breaker
        self._forms = ruleset.forms
        self._beginnings = beginnings
        # Where disguises may not stay, a cut must not make one either.
        strict = any(ruleset.lookalikes[source] in _STRICT for source in ruleset.watched.intersection(sources))
        self._lookout = ruleset.lookout if strict else None
        if strict:
            self._reach = longest_disguise(ruleset)
        self._separators: dict[tuple[str, str], str] = {}  # what was found between two characters before
        self._since = ""  # the end of what was kept since the last gap
        self._broken = -1  # where the last separator went, in the original
        self._cut = False  # whether the character before the window was cut
        self._gained = 0  # how much longer the result is than the original, so far

    def keep(self, text: str) -> None:
        """Let a window pass in which nothing is to be changed."""
        if self._prefixes:
            self._since = self._tail([text], -1)
        self._cut = False

    def edit(self, text: str, decided: Decided, start: int, stop: int, offset: int = 0) -> tuple[str, list[Edit]]:
        """Edit the window between two positions of `text`, and return what it becomes, and how.

        Args:
            text: The text, or of a stream the part that is at hand: one character before `start` if there is one.
            decided: The decision about every match that begins before `stop` and ends after `start`, at least.
            start: First character of the window, where the window before it ended.
            stop: One past the last.
            offset: Position in the whole text of the first character of `text`.

        Raises:
            VerificationError: A form that cannot be broken so that nothing parses.
        """
        cuts = _gaps(decided.cuts, start, stop)
        singles, places = self._breaks(decided, cuts, start, stop, offset)
        kept: list[str] = []
        edits: list[Edit] = []
        gap = -1  # the piece that follows the last gap of this window
        last = start
        for low, high in sorted([*cuts, *singles, *((place, place) for place in places)]):
            kept.append(text[last:low])
            if low == high:
                inserted = self._separate(text[low - 1] + places[low][:1], text[low] + places[low][1:])
            elif (low, high) in singles:
                inserted = REPLACEMENT
            elif low == start and self._cut:
                inserted = ""
            else:
                inserted = REPLACEMENT if self._may_grow(kept, gap) else ""
            edits.append(Edit(low + offset, low + offset + self._gained, text[low:high], inserted))
            self._gained += len(inserted) - (high - low)
            kept.append(inserted)
            if low < high:
                gap = len(kept)
            last = high
        if last < stop:
            kept.append(text[last:stop])
        if self._prefixes and stop > start:
            self._since = self._tail(kept, gap)
            self._cut = bool(cuts) and cuts[-1][1] == stop
        return "".join(kept), edits

    def _breaks(
        self, decided: Decided, cuts: list[tuple[int, int]], start: int, stop: int, offset: int
    ) -> tuple[set[tuple[int, int]], dict[int, str]]:
        """Return the forms of one character that must go and are not cut, and where separators go between two kept.

        With each of these places comes what the characters beside it may be taken for: the form's own first two.
        """
        singles: set[tuple[int, int]] = set()
        places: dict[int, str] = {}
        allowed = [(low, high) for _, low, high in decided.allowed]
        for form, low, high in decided.breaks:
            if high - low == 1:
                if start <= low < stop and not _holding(cuts, low):
                    singles.add((low, high))
                continue
            # After the first character, but never inside a token that was allowed: then right after that token.
            place = max(low + 1, _holding(allowed, low)) if allowed else low + 1
            if not start <= place < stop or self._broken - offset > low:
                continue
            if (cuts and (_holding(cuts, place - 1) or _holding(cuts, place))) or (place == start and self._cut):
                continue
            places[place] = self._forms[form].text[:2]
            self._broken = place + offset
        return singles, places

    def _may_grow(self, kept: list[str], gap: int) -> bool:
        tail = self._tail(kept, gap)
        prefixes = self._prefixes
        first = self._beginnings.exact
        if first is not None and any(tail[found.start() :] in prefixes for found in first.finditer(tail)):
            return True
        if self._lookout is None:
            return False
        return self._beginnings.find_open_disguise(tail, 0, len(tail), self._lookout) < len(tail)

    def _tail(self, kept: list[str], gap: int) -> str:
        """Return the end of what was kept since the last gap, at most as long as matters."""
        if not self._reach:
            return ""
        tail = ""
        for index in range(len(kept) - 1, max(gap, 0) - 1, -1):
            tail = kept[index][-self._reach :] + tail
            if len(tail) >= self._reach:
                return tail[-self._reach :]
        return tail if gap >= 0 else (self._since + tail)[-self._reach :]

    def _separate(self, left: str, right: str) -> str:
        known = self._separators
        if (left, right) not in known:
            known[left, right] = self._breaker.separate(left, right)
        return known[left, right]


def _holding(spans: Sequence[tuple[int, int]], position: int) -> int:
    """Return the end of the span that holds the character at `position`, or 0; the spans are in order."""
    index = bisect_right(spans, position, key=itemgetter(0)) - 1
    return spans[index][1] if index >= 0 and position < spans[index][1] else 0


def _gaps(cuts: Sequence[Span], start: int, stop: int) -> list[tuple[int, int]]:
    """Return the cuts between two positions; those that touch are one gap."""
    gaps: list[tuple[int, int]] = []
    for cut in cuts:
        low, high = cut.start, cut.end
        if low < start or high > stop:
            low, high = max(low, start), min(high, stop)
            if low >= high:
                continue
        if gaps and gaps[-1][1] == low:
            low = gaps.pop()[0]
        gaps.append((low, high))
    return gaps
