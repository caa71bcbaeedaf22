"""One text seen every way at once: where a form stands in disguise, and which views it takes to see it.

The automata of a `Lookout` name the places. From each of them the text is read character by character, every escape
decoded, every fold tried, what is hidden left out, for as long as some form goes on that way. So a hit is exact in
place and reason, and the work at a place is bounded by the longest form.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from guardtok.errors import GuardtokError, ViewError
from guardtok.views.escapes import INTRODUCERS, read
from guardtok.views.folds import EXACT, HIDDEN_RUN, View, hidden_as, name_views, readings, views_needed
from guardtok.views.lookout import SPACES, make_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ahocorasick_rs import BytesAhoCorasick

    from guardtok.views.lookout import Lookout, Target
    from guardtok.violation import Match

_SPARSE = 4_000
"""One place to read from per so many bytes costs less than the shape of the text, which names fewer."""

_DENSE = 500
"""One place with white space per so many bytes, and the text is searched once more without its white space."""

_WORD = re.compile(rb"[^ \t\n\r\x0b\x0c]+")
_START = itemgetter(1)


class Disguise(NamedTuple):
    """A form in disguise.

    Attributes:
        form: Index of the form in the ruleset.
        start: First character.
        end: One past the last; an escape is inside as a whole.
        view: The views that it takes to see it, joined by `+`; or `hidden_run`.
        second: One past the form's own first character, in whatever spelling: what is put here takes the form apart.
    """

    form: int
    start: int
    end: int
    view: str
    second: int


class _Unit(NamedTuple):
    """A character that was read, as a linked list back to the first: what it is, and what it was taken for."""

    char: str
    reading: int
    target: str
    before: _Unit | None


class _State(NamedTuple):
    """A beginning of some form, read so far.

    Attributes:
        prefix: The beginning, case folded.
        key: Index of the first key that begins so.
        views: The views for what was decoded and left out.
        hidden: How many hidden characters were left out since the last one that counts.
        aside: The views for those: they count once the form goes on.
        last: The last character that counts.
    """

    prefix: str
    key: int
    views: int
    hidden: int
    aside: int
    last: _Unit | None


def find_disguised(text: str, data: bytes, exact: Sequence[Match], lookout: Lookout) -> list[Disguise]:
    """Return every form in disguise, by start; of those that begin at one place the longest.

    Where several forms differ only in what is folded, each is returned, the one that takes the fewest views first. What
    begins where an exact match begins, or lies inside one or inside another disguise, is left out.

    Args:
        text: The text, without surrogates.
        data: The same as UTF-8.
        exact: The exact matches in it, in characters, in any order.
        lookout: The forms to look for.

    Raises:
        ViewError: A view failed; nothing is known of the text.
    """
    try:
        places = _find_places(text, data, lookout)
        return list(_read_all(text, places, exact, lookout)) if places else []
    except GuardtokError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the text was not looked through
        failure = type(error).__name__
    # Raised out here it has no context: the error may quote the text.
    raise ViewError(
        f"Looking for disguised forms failed with {failure} on {len(text):,} characters; nothing was admitted. "
        "This is a fault of guardtok: report it, and until then set `lookalikes: ignore` for this source."
    )


def _read_all(text: str, places: list[int], exact: Sequence[Match], lookout: Lookout) -> Iterator[Disguise]:
    known = sorted((start, end) for _, start, end in exact)
    starts = [start for start, _ in known]
    reach = list(accumulate((end for _, end in known), max))  # how far the exact matches reach that begin by then
    taken = set(starts)
    done = 0
    for place in places:
        if place in taken:
            continue
        found = read_from(text, place, lookout)
        if not found or found[0].end <= done:
            continue
        before = bisect_right(starts, place)
        if before and reach[before - 1] >= found[0].end:
            continue
        done = found[0].end
        yield from found


def _find_places(text: str, data: bytes, lookout: Lookout) -> list[int]:
    """Return the characters from which a disguise may be read, ascending: none is missed, most are none."""
    if len(data) == len(text):
        places = _starts(_search(data, lookout.quick))
        if len(places) * _SPARSE > len(data):
            places = _starts(_search_shape(make_shape(data), lookout))
        return _with_backslashes(text, sorted(places))
    places = _count_characters(sorted(_starts(_search_shape(make_shape(data), lookout))), data)
    if lookout.heads is not None:
        places.update(found.start() for found in lookout.heads.finditer(text))
    return _with_backslashes(text, sorted(places))


def _search(data: bytes, automata: Iterable[BytesAhoCorasick]) -> list[Match]:
    found: list[Match] = []
    for automaton in automata:
        found += automaton.find_matches_as_indexes(data, overlapping=True)
    return found


def _search_shape(shape: bytes, lookout: Lookout) -> list[Match]:
    tight = _search(shape, lookout.tight)
    gapped = _search(shape, lookout.gapped)
    if len(gapped) * _DENSE < len(shape):
        return tight + gapped
    closed = shape.translate(None, SPACES)
    found = _search(closed, lookout.tight)
    if len(found) == len(tight):
        # The matches without white space are in both: there are no others.
        return tight
    return tight + _open_again(found, shape)


def _open_again(found: list[Match], shape: bytes) -> list[Match]:
    """Move matches in a shape without white space to where they begin in the shape."""
    words = [word.span() for word in _WORD.finditer(shape)]
    firsts = list(accumulate((end - start for start, end in words), initial=0))
    moved: list[Match] = []
    for form, start, end in found:
        word = bisect_right(firsts, start) - 1
        at = words[word][0] + start - firsts[word]
        moved.append((form, at, at + end - start))
    return moved


def _starts(found: Iterable[Match]) -> set[int]:
    return set(map(_START, found))


def _count_characters(positions: list[int], data: bytes) -> set[int]:
    """Turn byte positions, ascending, into character positions, decoding each stretch between two of them once."""
    counted = set()
    last = characters = 0
    for position in positions:
        characters += len(data[last:position].decode())
        last = position
        counted.add(characters)
    return counted


def _with_backslashes(text: str, places: list[int]) -> list[int]:
    """Move each place at a backslash to the first of its row, which is one escape however long it is."""
    moved: dict[int, None] = {}
    last = first = -1
    for place in places:
        start = place
        if text[place] == "\\":
            while start > last + 1 and text[start - 1] == "\\":
                start -= 1
            if start == last + 1 and last >= 0 and text[last] == "\\":
                start = first
        moved[start] = None
        last, first = place, start
    return list(moved)


def read_from(text: str, start: int, lookout: Lookout) -> list[Disguise]:
    """Return the longest disguise that begins at a character: once for each form that it may stand for."""
    states = [_State("", 0, EXACT, 0, EXACT, None)]
    whole: list[tuple[int, _State]] = []
    run: list[Disguise] = []
    second = end = start
    while states and end < len(text):
        char, decoded = text[end], EXACT
        if char in INTRODUCERS:
            char, end, decoded = read(text, end)
        else:
            end += 1
        if second == start:
            second = end
        states = _step(states, char, decoded, lookout)
        for state in states:
            if not state.hidden and lookout.keys[state.key] == state.prefix:
                whole.append((end, state))
            elif state.hidden > lookout.max_hidden:
                # As the first form that begins so: which one it would have become is not to be known.
                run, states = [Disguise(lookout.targets[state.key][0].index, start, end, HIDDEN_RUN, second)], []
                break
    while whole:
        reached = whole[-1][0]
        found: list[tuple[int, int]] = []
        while whole and whole[-1][0] == reached:
            found += _judge(whole.pop()[1], lookout)
        if found:
            ordered = sorted(found, key=_fewest)
            return [Disguise(form, start, reached, name_views(views), second) for views, form in ordered]
    return run


def _judge(state: _State, lookout: Lookout) -> Iterator[tuple[int, int]]:
    """Yield views and index of every form that was read, if these views are open to it and it is not itself."""
    for target in lookout.targets[state.key]:
        views = _views(state, target)
        if views != EXACT and not views & ~target.views:
            yield views, target.index


def _fewest(found: tuple[int, int]) -> tuple[int, int, int]:
    views, form = found
    return views.bit_count(), views, form


def _step(states: list[_State], char: str, decoded: int, lookout: Lookout) -> list[_State]:
    """Return what the beginnings read so far become with one more character; of two that are equal the first."""
    following: dict[str, _State] = {}
    for target, reading in readings(char):
        for state in states:
            prefix = state.prefix + target
            if prefix in following:
                continue
            key = bisect_left(lookout.keys, prefix, state.key)
            if key < len(lookout.keys) and lookout.keys[key].startswith(prefix):
                unit = _Unit(char, reading, target, state.last)
                following[prefix] = _State(prefix, key, state.views | state.aside | decoded, 0, EXACT, unit)
    aside = hidden_as(char)
    if aside:
        for state in states:
            # White space alone is ordinary, however much of it; it ends the form.
            long = state.hidden >= lookout.max_hidden and not (state.aside | aside) & View.INVISIBLE
            if state.last is not None and state.prefix not in following and not long:
                following[state.prefix] = state._replace(hidden=state.hidden + 1, aside=state.aside | aside | decoded)
    return list(following.values())


def _views(state: _State, target: Target) -> int:
    """Return the views under which what was read is exactly the form."""
    views, unit, end = state.views, state.last, len(target.text)
    while unit is not None:
        start = end - len(unit.target)
        views |= views_needed(unit.char, unit.reading, target.text[start:end])
        unit, end = unit.before, start
    return views
