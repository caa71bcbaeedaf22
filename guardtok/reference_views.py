"""Forms in disguise once more, slow and plain: the specification that `guardtok.views` is held against.

The need it answers: automata, shapes and shortcuts are quick and easy to get wrong. Here every form is tried at every
character of the text, one character at a time, and no place is skipped. What a character may be taken for, and what an
escape spells, are tables and small pure functions with tests of their own, and are shared. Only tests and fuzzing
import this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.views.escapes import read
from guardtok.views.folds import EXACT, HIDDEN_RUN, View, fold_case, hidden_as, name_views, readings, views_needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from guardtok.violation import Match


def disguises(
    text: str, exact: Iterable[Match], forms: Mapping[int, tuple[str, int]], max_hidden: int
) -> set[tuple[int, int, int, str, bool]]:
    """Return form, start, end and view of every disguise, and whether it lies inside another, or an exact match.

    Args:
        text: The text.
        exact: The exact matches in it.
        forms: What to look for: by index, the form and the views that are open to it.
        max_hidden: So many hidden characters may stand between two characters of a form.
    """
    known = [(start, end) for _, start, end in exact]
    units = [read(text, start) for start in range(len(text))]
    found: set[tuple[int, int, int, str, bool]] = set()
    reached = 0
    for start in range(len(text)):
        if text[start] == "\\" == text[start - 1 : start]:
            continue  # A row of backslashes is one escape, which begins where the row does.
        here = _longest_at(start, units, forms, max_hidden)
        ends = {end for _, end, _ in here}
        if not ends or any(s == start for s, _ in known):
            continue
        inner = max(ends) <= reached or any(s <= start and max(ends) <= e for s, e in known)
        reached = max(reached, *ends)
        found.update((form, start, end, view, inner) for form, end, view in here)
    return found


def _longest_at(
    start: int, units: Sequence[tuple[str, int, int]], forms: Mapping[int, tuple[str, int]], max_hidden: int
) -> list[tuple[int, int, str]]:
    """Return form, end and view of the longest disguise that begins at a character, for each form that it may be."""
    whole: list[tuple[int, int, str]] = []
    runs: list[tuple[int, int]] = []
    for index, (form, open_to) in forms.items():
        for end, views, hidden in _spell(fold_case(form), form, start, units, max_hidden):
            if hidden > max_hidden:
                # What was left out and decoded must be open to the form, as in a whole one.
                runs += [(end, index)] if not views & ~open_to else []
            elif views != EXACT and not views & ~open_to:
                whole.append((index, end, name_views(views)))
    if whole:
        longest = max(end for _, end, _ in whole)
        return [each for each in whole if each[1] == longest]
    # Of the forms that begin as what stands before the nearest run: the first.
    first = min(runs, default=None)
    return [(first[1], first[0], HIDDEN_RUN)] if first else []


def _spell(
    folded: str, form: str, start: int, units: Sequence[tuple[str, int, int]], max_hidden: int
) -> list[tuple[int, int, int]]:
    """Return where the form may end that begins at a character, the views, and how many characters were hidden last.

    Where those are more than `max_hidden`, it is a run of them that ends there; the views are those for what was left
    out and decoded.
    """
    todo = [(start, 0, EXACT, EXACT, 0, EXACT)]
    ends: dict[int, tuple[int, int]] = {}
    while todo:
        at, done, views, left, hidden, aside = todo.pop()
        if done == len(form):
            ends.setdefault(at, (views | left, 0))
            continue
        if at == len(units):
            continue
        char, after, decoded = units[at]
        goes_on = False
        for target, reading in readings(char):
            if folded.startswith(target, done):
                goes_on = True
                more = views_needed(char, reading, form[done : done + len(target)])
                todo.append((after, done + len(target), views | more, left | aside | decoded, 0, EXACT))
                break
        kind = hidden_as(char)
        if kind and done and not (goes_on and kind == View.INVISIBLE):
            aside |= kind | decoded
            if hidden < max_hidden:
                todo.insert(0, (after, done, views, left, hidden + 1, aside))
            elif aside & View.INVISIBLE:
                ends.setdefault(after, (left | aside, hidden + 1))
    return [(end, views, hidden) for end, (views, hidden) in ends.items()]
