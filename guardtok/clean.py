"""Texts in which nothing can be found: most texts, told from the rest by two searches.

The need is time. A message of two hundred characters is encoded in a microsecond or two; to take it in, to decide
nothing about it and to note that nothing was decided takes longer. What passes here needs none of that, and what does
not pass goes the long way, which finds out what there is. So a mistake that lets a text through would be a hole, and
one that stops a text costs microseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from guardtok.scan import find
from guardtok.views import find_suspects, may_hold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from guardtok.ruleset import Ruleset

BLOCK = 1_000_000
"""So many characters of a batch are searched in one go, and no more, so that its texts are not all held twice."""

_HEAD = 4_096
"""So many bytes of a text are searched first."""

_APART = "\n.\n"
"""The same where the search reads characters and bytes by one count, so that all has to be ASCII."""

_BETWEEN = "\u00ff"
"""Stands between texts that are searched in one go. A form that a text holds is there whatever this is."""


def is_clean(text: str, source: str | None, ruleset: Ruleset) -> bool:
    """Whether a text is one that needs no decision, by a known source. False says nothing about it."""
    if not _is_ready(text, source, ruleset):
        return False
    data = text.encode()
    if source in ruleset.watched:
        return not may_hold(text, data, ruleset.lookout)
    # A flood of forms is found out at its beginning, and not searched whole only to be searched again.
    return not find(data[:_HEAD], ruleset.automata) and (len(data) <= _HEAD or not find(data, ruleset.automata))


def which_are_clean(texts: Sequence[str], source: str | None, ruleset: Ruleset) -> Iterator[bool]:
    """Yield for each text whether it needs no decision, as far as one search of many texts can tell."""
    block: list[str] = []
    size = 0
    for text in texts:
        # One that is not ready leaves an empty place, so that every other keeps its own.
        block.append(text if _is_ready(text, source, ruleset) else "")
        size += len(block[-1])
        if size >= BLOCK:
            yield from _search(block, source, ruleset)
            block, size = [], 0
    yield from _search(block, source, ruleset)


def are_clean(texts: Sequence[str], source: str, ruleset: Ruleset) -> bool:
    """Whether no text of many, all of one source, needs a decision where text goes on as text. False says nothing.

    The texts are exact strings, and together within the limits.
    """
    # A tokenizer's own rules matter for ids; only what its normaliser folds matters for text.
    folds = ruleset.rules is not None and ruleset.rules.folding is not None
    if folds or not all(map(str.isascii, texts)):
        return False
    joined = _APART.join(texts)
    data = joined.encode()
    if source in ruleset.watched:
        return not may_hold(joined, data, ruleset.lookout)
    return not find(data[:_HEAD], ruleset.automata) and not find(data, ruleset.automata)


def _is_ready(text: str, source: str | None, ruleset: Ruleset) -> bool:
    """Whether a text is an exact `str` of ASCII alone, not empty or too long, by a source that the policy knows.

    A tokenizer with rules of its own may parse what the automata do not look for.
    """
    return (
        type(text) is str
        and type(source) is str
        and text.isascii()
        and source in ruleset.modes
        and 0 < len(text) <= ruleset.policy.limits.max_chars
        and ruleset.rules is None
    )


def _search(block: list[str], source: str | None, ruleset: Ruleset) -> Iterator[bool]:
    starts = _suspects(_BETWEEN.join(block).encode(), source, ruleset) if any(block) else None
    clean = [starts is not None and text != "" for text in block]
    if starts:
        ends = list(accumulate(len(text) + len(_BETWEEN.encode()) for text in block))
        for start in starts:
            # What reaches over a border is in neither text; it only stops the first of them.
            clean[bisect_right(ends, start)] = False
    yield from clean


def _suspects(data: bytes, source: str | None, ruleset: Ruleset) -> Iterable[int] | None:
    """Return where something may begin that is to be decided, or None where that may be nearly everywhere."""
    if source not in ruleset.watched:
        return {start for _, start, _ in find(data, ruleset.automata)}
    suspects = find_suspects(data, ruleset.lookout)
    return suspects and set.union(*suspects)
