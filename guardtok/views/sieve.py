"""Where in a heap of texts can a form begin? The same question as in `search`, asked of megabytes at a time.

`search` reads one text and says what is in it. Here many texts lie side by side in one buffer of UTF-8, most hold
nothing, and all that is wanted are the places that are worth reading. What is missed here is never read, so every place
at which `search` could find something is named, whatever stands before and behind the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from guardtok.views.broken_off import BrokenOff
from guardtok.views.escapes import INTRODUCERS
from guardtok.views.lookout import make_tight_shape, prepare_quick
from guardtok.views.search import AHEAD, may_go_on, read_from, search_all, with_backslashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.views.lookout import Lookout

_GLANCE = 10
"""So many bytes at a place are looked at first. They are often the same (`<a href=`), and the answer is remembered."""

_ESCAPE = 8
"""So many bytes of an escape are looked at, and remembered likewise."""

_SIGNS = frozenset(map(ord, INTRODUCERS))

_REMEMBERED = 1 << 15
"""So many answers are remembered."""


@dataclass(frozen=True, slots=True)
class Sieve:
    """The forms that are looked for, ready to be looked for in many texts at once. Made by `make_sieve`.

    Attributes:
        lookout: The forms.
        quick: Automata over UTF-8: what they, `lookout.escaped` and `heads` miss begins no form, exact or in disguise.
        heads: Finds the characters beyond ASCII that a form, or its disguise, may begin with; None without any.
        glance: Whether a form may begin as these bytes do.
        opens: Whether the escape that these bytes begin with may begin a form in disguise.
    """

    lookout: Lookout = field(repr=False)
    quick: tuple[BytesAhoCorasick, ...] = field(repr=False)
    heads: BytesAhoCorasick | None = field(repr=False)
    glance: Callable[[bytes], bool] = field(repr=False)
    opens: Callable[[bytes], bool] | None = field(repr=False)

    def find_places(self, data: bytes) -> set[int]:
        """Return the bytes at which a form may begin, exact or in disguise, in UTF-8 texts that lie side by side."""
        glance, lookout = self.glance, self.lookout
        places = {at for _, at, _ in search_all(data, lookout.escaped)}
        if self.heads is not None and not data.isascii():
            places.update(at for _, at, _ in self.heads.find_matches_as_indexes(data))
        places.update(
            at
            for _, at, _ in search_all(data, self.quick)
            if glance(data[at : at + _GLANCE]) and may_go_on(make_tight_shape(data[at : at + AHEAD]), lookout)
        )
        return places

    def narrow(self, data: bytes, places: Iterable[int]) -> list[int]:
        """Return those of the places in a text alone at which there is no escape that begins nothing.

        Pages are full of `&amp;` and `&nbsp;`, and what one of them stands for is known from a few bytes.
        """
        opens = self.opens
        if opens is None:
            return list(places)
        return [
            place
            for place in places
            # One of a row of backslashes is read from the first of them.
            if data[place] not in _SIGNS or data[place - 1 : place] == b"\\" or opens(data[place : place + _ESCAPE])
        ]

    def holds_disguise(self, text: str, data: bytes, places: Iterable[int]) -> bool:
        """Whether a form in disguise begins at one of these bytes of a text that lies alone.

        Args:
            text: The text, without surrogates.
            data: The same as UTF-8.
            places: What `find_places` returned of it.
        """
        ordered = sorted(places)
        if len(text) != len(data):
            ordered = [len(data[:place].decode()) for place in ordered]
        return any(read_from(text, place, self.lookout) for place in with_backslashes(text, ordered))


def make_sieve(lookout: Lookout) -> Sieve:
    """Return a sieve for the forms of a lookout."""
    heads = sorted(char.encode() for char in lookout.firsts if not char.isascii())

    @lru_cache(maxsize=_REMEMBERED)
    def glance(data: bytes) -> bool:
        return may_go_on(make_tight_shape(data), lookout)

    @lru_cache(maxsize=_REMEMBERED)
    def opens(data: bytes) -> bool:
        return not data.isascii() or BrokenOff(data.decode()).may_begin(lookout)

    return Sieve(
        lookout,
        prepare_quick(lookout),
        # Leftmost-longest finds all, for no character lies in another; and a few are looked for by vector instructions.
        BytesAhoCorasick(heads, MatchKind.LeftmostLongest) if heads else None,
        glance,
        # A form that begins with such a sign itself may stand there as it is.
        None if lookout.firsts.intersection(INTRODUCERS) else opens,
    )
