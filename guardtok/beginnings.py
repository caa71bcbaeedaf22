"""Could this be the beginning of a form? What a stream has to hold back, and no more.

A form that is cut over two chunks is in neither of them. Holding back as much as the longest form would do, and would
make every reader of a stream wait; text that no form begins with can go on at once.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from guardtok.views.broken_off import BrokenOff
from guardtok.views.escapes import INTRODUCERS
from guardtok.views.folds import disguises_of
from guardtok.views.search import find_open_places, view_error

if TYPE_CHECKING:
    from guardtok.ruleset import Ruleset
    from guardtok.views import Lookout


@dataclass(frozen=True, slots=True)
class Beginnings:
    """What a form begins with, exactly or in disguise. Made by `sort_beginnings`.

    Attributes:
        forms: The forms in the order of their code points.
        exact: Finds a character that a form begins with; None where there are no forms.
        disguised: Finds a character that a form in disguise may begin with, or the form itself.
        shortest: Length of the shortest form.
        longest: Length of the longest form.
    """

    forms: tuple[str, ...] = field(repr=False)
    exact: re.Pattern[str] | None
    disguised: re.Pattern[str] | None
    shortest: int
    longest: int

    def may_grow(self, text: str) -> bool:
        """Whether `text` is the beginning of a form, and not all of it."""
        # Of the forms that follow it in order, those that it begins come first.
        index = bisect_right(self.forms, text)
        return index < len(self.forms) and self.forms[index].startswith(text)

    def occur(self, text: str, start: int, stop: int, lookout: Lookout | None) -> bool:
        """Whether a form could begin between two positions of `text`, in disguise if there is a lookout."""
        first = self.exact if lookout is None else self.disguised
        return first is not None and first.search(text, start, stop) is not None

    def find_open(self, text: str, start: int) -> int:
        """Return the first position from `start` on where a form begins that `text` breaks off, or its length."""
        end = len(text)
        if self.exact is not None:
            for found in self.exact.finditer(text, max(start, end - self.longest + 1)):
                if self.may_grow(text[found.start() :]):
                    return found.start()
        return end

    def find_open_disguise(self, text: str, start: int, stop: int, lookout: Lookout) -> int:
        """Return the first position between two where a form in disguise begins that `text` breaks off, or `stop`.

        Args:
            text: The text.
            start: Where to begin.
            stop: Where to end.
            lookout: The forms.

        Raises:
            ViewError: A view failed; nothing is known of the text.
        """
        if self.disguised is None:
            return stop
        try:
            return self._find_open_disguise(text, start, stop, lookout, self.disguised)
        except Exception as error:  # noqa: BLE001 - whatever it is, the text was not looked through
            failure = type(error).__name__
        # Raised out here it has no context: the error may quote the text.
        raise view_error(failure, len(text))

    def _find_open_disguise(
        self, text: str, start: int, stop: int, lookout: Lookout, disguised: re.Pattern[str]
    ) -> int:
        # Nearly all that is held back is excluded by automata; only what they do not see to its end is read at once.
        near = max(start, len(text) - lookout.reach)
        far = (start + place for place in find_open_places(text[start:], lookout)) if near > start else ()
        last = (found.start() for found in disguised.finditer(text, near, stop))
        broken_off = BrokenOff(text)
        for place in chain((place for place in far if place < min(near, stop)), last):
            if broken_off.ends_what_begins_at(place, lookout):
                # A row of backslashes is read from its first one.
                return min(place, start + len(text[start : place + 1].rstrip("\\")))
        return stop


def sort_beginnings(ruleset: Ruleset) -> Beginnings:
    """Return the beginnings of a ruleset's forms."""
    forms = tuple(sorted(form.text for form in ruleset.forms))
    firsts = {form[0] for form in forms}
    folded = {key[0] for key in ruleset.lookout.keys}
    disguised = firsts | {char for first in folded for char in (first, first.upper(), *disguises_of(first))}
    return Beginnings(
        forms,
        _one_of(firsts),
        _one_of(disguised.union(INTRODUCERS) if firsts else firsts),
        min(map(len, forms), default=0),
        ruleset.longest,
    )


def _one_of(chars: set[str]) -> re.Pattern[str] | None:
    return re.compile(f"[{re.escape(''.join(sorted(chars)))}]") if chars else None
