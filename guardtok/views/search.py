"""One text seen every way at once: where a form stands in disguise, and which views it takes to see it.

The automata of a `Lookout` name the places. From each of them the text is read character by character, every escape
decoded, every fold tried, what is hidden left out, for as long as some form goes on that way. So a hit is exact in
place and reason, and the work at a place is bounded by the longest form.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from guardtok.errors import GuardtokError, ViewError
from guardtok.views.escapes import INTRODUCERS, read
from guardtok.views.folds import EXACT, HIDDEN_RUN, View, hidden_as, name_views, readings, views_needed
from guardtok.views.lookout import MARK, SPACES, make_shape, make_tight_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ahocorasick_rs import BytesAhoCorasick

    from guardtok.views.lookout import Lookout, Target
    from guardtok.violation import Match

_SPARSE = 2_000
"""One place to read from per so many bytes costs less than the shape of the text, which names fewer."""

_FEW = 4
"""So many places are few, however short a text is."""

_DENSE = 100
"""One match per so many bytes, and a cheap search is no longer cheap: another way is taken."""

_PROBE = 8_192
"""So many bytes are searched to know."""

AHEAD = 48
"""So many characters are looked at before any is read with care; nearly all that is ordinary shows within six."""

_SIGNS = frozenset({MARK, *(sign.encode() for sign in INTRODUCERS)})
_START = itemgetter(1)


class Disguise(NamedTuple):
    """A form in disguise.

    Attributes:
        form: Index of the form in the ruleset.
        start: First character.
        end: One past the last; an escape is inside as a whole.
        view: The views that it takes to see it, joined by `+`; or `hidden_run`.
        second: One past the form's own first character, in whatever spelling: what is put here takes the form apart.
        inner: Whether it lies inside an exact match or another disguise. It is part of that until that is broken.
    """

    form: int
    start: int
    end: int
    view: str
    second: int
    inner: bool = False


_Unit: TypeAlias = "tuple[str, int, str, _Unit] | None"
"""A character that counts, the reading it was taken under, what it was taken for, and the one before; None at first."""

_State: TypeAlias = "tuple[str, int, int, int, int, _Unit]"
"""A beginning of some form, read so far: it, case folded; the first key that begins so; the views for what was decoded
and left out; how many hidden characters were left out since the last that counts, and the views for those, which count
once the form goes on; the last character that counts."""


def find_disguised(text: str, data: bytes, exact: Sequence[Match], lookout: Lookout) -> list[Disguise]:
    """Return every form in disguise, by start; of those that begin at one place the longest.

    Where several forms differ only in what is folded, each is returned, the one that takes the fewest views first. What
    begins where an exact match begins is left out; what lies inside one or inside another disguise is `inner`.

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
        places.difference_update(map(_START, exact))
        return list(_read_all(text, with_backslashes(text, sorted(places)), exact, lookout)) if places else []
    except GuardtokError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the text was not looked through
        failure = type(error).__name__
    # Raised out here it has no context: the error may quote the text.
    raise view_error(failure, len(text))


def view_error(failure: str, size: int) -> ViewError:
    """Return the error for a view that failed, named by its exception's type, on so many characters."""
    return ViewError(
        f"Looking for disguised forms failed with {failure} on {size:,} characters; nothing was admitted. "
        "This is a fault of guardtok: report it, and until then set `lookalikes: ignore` for this source."
    )


def may_hold(text: str, data: bytes, lookout: Lookout) -> bool:
    """Whether ASCII text may hold a form, exact or in disguise. Where this says no, nothing is to be found.

    Args:
        text: The text.
        data: The same in bytes.
        lookout: The forms to look for.
    """
    try:
        if not (search_all(data, lookout.quick) or search_all(data, lookout.escaped)):
            return False  # So it is with most short texts.
        suspects = find_suspects(data, lookout)
        if suspects is None or suspects[0]:
            return True
        return any(read_from(text, place, lookout) for place in with_backslashes(text, sorted(suspects[1])))
    except Exception:  # noqa: BLE001 - then nothing is known; who looks next meets the same error and says so
        return True


def find_suspects(data: bytes, lookout: Lookout) -> tuple[set[int], set[int]] | None:
    """Return where in ASCII text forms may begin as they are, and where in escapes; None where that is not known.

    It is not where the places are too many to be looked at, or where a view fails.
    """
    try:
        quick = search_all(data, lookout.quick)
        if len(quick) * _SPARSE > len(data) + _FEW * _SPARSE:
            return None
        plain = {at for _, at, _ in quick if may_go_on(make_tight_shape(data[at : at + AHEAD]), lookout)}
        return plain, _starts(search_all(data, lookout.escaped))
    except Exception:  # noqa: BLE001 - as above
        return None


def _read_all(text: str, places: list[int], exact: Sequence[Match], lookout: Lookout) -> Iterator[Disguise]:
    known = sorted((start, end) for _, start, end in exact)
    starts = [start for start, _ in known]
    reach = list(accumulate((end for _, end in known), max))  # how far the exact matches reach that begin by then
    done = 0
    for place in places:
        found = read_from(text, place, lookout)
        before = bisect_right(starts, place)
        if not found or (before and starts[before - 1] == place):
            continue
        end = found[0].end
        if end <= done or (before and reach[before - 1] >= end):
            yield from (each._replace(inner=True) for each in found)
        else:
            done = end
            yield from found


def find_open_places(text: str, lookout: Lookout) -> list[int]:
    """Return the characters, ascending, from which a disguise may be read that `text` breaks off.

    Of the last `lookout.reach` characters some are left out: nothing shows yet whether they are such.
    """
    data = text.encode()
    found = search_all(data, lookout.escaped)
    if len(data) == len(text):
        return sorted(_starts(found + search_all(data, lookout.quick)))
    shape = make_shape(data)
    # All that have a gap: what would rule them out may be still to come.
    found += search_all(shape, lookout.tight) + search_all(shape, lookout.gapped)
    return sorted(_in_characters(found, text, data, lookout))


def _find_places(text: str, data: bytes, lookout: Lookout) -> set[int]:
    """Return the characters from which a disguise may be read: none is missed, most are none."""
    found = search_all(data, lookout.escaped)
    if len(data) == len(text):
        return _starts(found + _search_ascii(data, lookout))
    return _in_characters(found + _search_shape(make_shape(data), lookout), text, data, lookout)


def _in_characters(found: Iterable[Match], text: str, data: bytes, lookout: Lookout) -> set[int]:
    """Return where matches begin, in characters, and the characters beyond ASCII that may be disguised heads."""
    places = _count_characters(sorted(_starts(found)), data)
    if lookout.heads is not None:
        heads = lookout.heads.finditer(text)
        places.update(head.start() for head in heads if _may_follow(text[head.end() : head.end() + 1], lookout))
    return places


def _may_follow(char: str, lookout: Lookout) -> bool:
    """Whether a character may be the second of a form, or stand before it."""
    if not char or char in INTRODUCERS or hidden_as(char):
        return True
    return any(target[:1] in lookout.seconds for target, _ in readings(char))


def _search_ascii(data: bytes, lookout: Lookout) -> list[Match]:
    if not _is_dense(data, lookout.quick):
        quick = search_all(data, lookout.quick)
        if len(quick) * _SPARSE <= len(data):
            return quick
    return _search_shape(make_shape(data), lookout)


def _is_dense(data: bytes, automata: Iterable[BytesAhoCorasick]) -> bool:
    """Whether the first part of the data is full of matches: then to search the rest costs more than it saves."""
    return len(search_all(data[:_PROBE], automata)) * _DENSE > len(data[:_PROBE])


def search_all(data: bytes, automata: Iterable[BytesAhoCorasick]) -> list[Match]:
    """Return every match of every automaton, overlapping ones too, positions in bytes."""
    found: list[Match] = []
    for automaton in automata:
        found += automaton.find_matches_as_indexes(data, True)  # noqa: FBT003 - overlapping; by position it is quicker
    return found


def _search_shape(shape: bytes, lookout: Lookout) -> list[Match]:
    tight = search_all(shape, lookout.tight)
    if _is_dense(shape, lookout.gapped):
        # The matches without white space are in the text without white space, too. If no others are, there are none.
        closed = search_all(shape.translate(None, SPACES), lookout.tight)
        if len(closed) == len(tight):
            return tight
    gapped = search_all(shape, lookout.gapped)
    return tight + [gap for gap in gapped if may_go_on(shape[gap[1] : gap[1] + AHEAD].translate(None, SPACES), lookout)]


def may_go_on(shape: bytes, lookout: Lookout) -> bool:
    """Whether a form may begin as a tight shape does, as far as the shape is plain: to know is cheap, to read is not.

    A shape that is no beginning of any form ends one, unless it is all of one, or its last byte may be a disguise. A
    form of one character, or that begins with an introducer, has no beginnings; one of white space has no shape.
    """
    beginnings = lookout.beginnings
    for end in range(1, len(shape) + 1):
        if shape[:end] not in beginnings:
            return shape[end - 1 : end] in _SIGNS or shape[:end] in lookout.wholes or b"" in lookout.wholes
    return True  # More follows than was looked at.


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


def with_backslashes(text: str, places: list[int]) -> list[int]:
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
    char, second, decoded = read(text, start) if text[start] in INTRODUCERS else (text[start], start + 1, EXACT)
    if char not in lookout.firsts:
        return []
    ahead = text[second : second + AHEAD]
    if char.isascii() and not may_go_on(make_tight_shape((char + ahead).encode()), lookout):
        return []
    states = _step([("", 0, EXACT, 0, EXACT, None)], char, decoded, lookout)
    whole: list[tuple[int, _State]] = []
    runs: list[tuple[int, str, int]] = []
    end = second
    while states and end < len(text):
        char, end, decoded = read(text, end) if text[end] in INTRODUCERS else (text[end], end + 1, EXACT)
        states = _step(states, char, decoded, lookout)
        for state in states:
            prefix, key, views, hidden, aside, _ = state
            if not hidden and lookout.keys[key] == prefix:
                whole.append((end, state))
            elif hidden > lookout.max_hidden:
                runs.append((end, prefix, views | aside))
        states = [state for state in states if state[3] <= lookout.max_hidden]
    while whole:
        reached = whole[-1][0]
        found: list[tuple[int, int]] = []
        while whole and whole[-1][0] == reached:
            found += _judge(whole.pop()[1], lookout)
        if found:
            ordered = sorted(found, key=_fewest)
            return [Disguise(form, start, reached, name_views(views), second) for views, form in ordered]
    return list(_name_run(runs, start, second, lookout))


def _name_run(runs: list[tuple[int, str, int]], start: int, second: int, lookout: Lookout) -> Iterator[Disguise]:
    """Yield a run of hidden characters, the nearest, where some form may be found under the views that it takes."""
    begun = [(end, form) for end, prefix, views in runs for form in _forms_that_begin(prefix, views, lookout)]
    if begun:
        # Which form it would have become is not to be known: the first of the ruleset stands for all.
        nearest, form = min(begun)
        yield Disguise(form, start, nearest, HIDDEN_RUN, second)


def _forms_that_begin(prefix: str, views: int, lookout: Lookout) -> Iterator[int]:
    """Yield the index of every form that begins so, if these views are open to it."""
    low, high = bisect_left(lookout.keys, prefix), bisect_right(lookout.keys, prefix + chr(0x10FFFF))
    return (target.index for targets in lookout.targets[low:high] for target in targets if not views & ~target.views)


def _judge(state: _State, lookout: Lookout) -> Iterator[tuple[int, int]]:
    """Yield views and index of every form that was read, if these views are open to it and it is not itself."""
    for target in lookout.targets[state[1]]:
        views = _views(state, target)
        if views != EXACT and not views & ~target.views:
            yield views, target.index


def _fewest(found: tuple[int, int]) -> tuple[int, int, int]:
    views, form = found
    return views.bit_count(), views, form


def _step(states: list[_State], char: str, decoded: int, lookout: Lookout) -> list[_State]:
    """Return what the beginnings read so far become with one more character; of two that are equal the first."""
    following: dict[str, _State] = {}
    keys = lookout.keys
    for target, reading in readings(char):
        for before, first, views, _, aside, last in states:
            prefix = before + target
            key = bisect_left(keys, prefix, first)
            if key < len(keys) and keys[key].startswith(prefix) and prefix not in following:
                following[prefix] = (prefix, key, views | aside | decoded, 0, EXACT, (char, reading, target, last))
    kind = hidden_as(char)
    if kind:
        for before, first, views, hidden, aside, last in states:
            more = aside | kind | decoded
            # White space alone is ordinary, however much of it; it ends the form.
            ends = last is None or (hidden >= lookout.max_hidden and not more & View.INVISIBLE)
            if not ends and before not in following:
                following[before] = (before, first, views, hidden + 1, more, last)
    return list(following.values())


def _views(state: _State, target: Target) -> int:
    """Return the views under which what was read is exactly the form."""
    _, _, views, _, _, unit = state
    end = len(target.text)
    while unit is not None:
        char, reading, taken, unit = unit
        start = end - len(taken)
        views |= views_needed(char, reading, target.text[start:end])
        end = start
    return views
