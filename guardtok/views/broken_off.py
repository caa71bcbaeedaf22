"""A text of which only the beginning is known: what is read of it must not be taken for all there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from guardtok.views.search import read_from

if TYPE_CHECKING:
    from guardtok.views.lookout import Lookout


class MoreNeededError(Exception):
    """A reader asked for what follows the text."""


class BrokenOff(str):
    """A text that goes on, who knows how: whoever reads beyond its end is told so."""

    __slots__ = ()

    def ends_what_begins_at(self, place: int, lookout: Lookout) -> bool:
        """Whether a form in disguise may begin at a character, and go on behind the text."""
        try:
            read_from(self, place, lookout)
        except MoreNeededError:
            return True
        return False

    def may_begin(self, lookout: Lookout) -> bool:
        """Whether a form in disguise begins with its first character, as far as is known."""
        try:
            return bool(read_from(self, 0, lookout))
        except MoreNeededError:
            return True

    def __len__(self) -> int:
        return str.__len__(self) + 1

    def __getitem__(self, key: SupportsIndex | slice, /) -> str:
        if not isinstance(key, slice) and key.__index__() >= str.__len__(self):
            raise MoreNeededError
        return str.__getitem__(self, key)

    def startswith(self, prefix: str, start: int) -> bool:  # type: ignore[override]
        """Whether the text has `prefix` at `start`."""
        rest = str.__getitem__(self, slice(start, start + str.__len__(prefix)))
        if str.__len__(rest) < str.__len__(prefix) and prefix.startswith(rest):
            raise MoreNeededError
        return rest == prefix
