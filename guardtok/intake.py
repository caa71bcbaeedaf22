"""The one text: what the caller gave, made exact, well-formed and bounded, before anything looks at it.

tiktoken checks for special tokens before it repairs surrogates, so what it checks and what it encodes can differ. Here
the repair comes first, and from here on there is one text: what is scanned is what is encoded. Positions stay the
caller's.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from guardtok.errors import LimitError, MissingSourceError, NotTextError, SurrogateError, UnknownSourceError, near_match
from guardtok.policy.model import Surrogates
from guardtok.text import Run, Text

if TYPE_CHECKING:
    from collections.abc import Collection

    from guardtok.policy.model import Limits

_start = itemgetter(0)

SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")
"""Finds surrogates: both halves of a pair, or a lone one."""


@dataclass(frozen=True, slots=True)
class Intake:
    """A text that is ready to be scanned and encoded.

    Attributes:
        text: An exact `str` without surrogates.
        data: The same as UTF-8.
        runs: Its runs by origin, in characters of `text`; adjacent runs may share a source.
        joined: Positions in `text` of the characters that were two surrogates in one string of the caller's, ascending.
    """

    text: str
    data: bytes = field(repr=False)
    runs: tuple[Run, ...]
    joined: tuple[int, ...] = ()

    def run_at(self, position: int) -> int:
        """Return the index in `runs` of the run that holds the character at `position`."""
        return bisect_right(self.runs, position, key=_start) - 1

    def caller_position(self, run: Run, position: int) -> int:
        """Return where a position of `text` inside `run` (its end included) lies in the caller's own string."""
        pairs = bisect_left(self.joined, position) - bisect_left(self.joined, run.start) if self.joined else 0
        return run.offset + position - run.start + pairs


def take_in(text: str, source: str | None, *, known: Collection[str], limits: Limits, surrogates: Surrogates) -> Intake:
    """Make a text ready: check its source and size, copy it to an exact `str`, repair surrogates.

    Surrogate pairs become the character that they spell, as in tiktoken; halves that two sources wrote stay halves.

    Args:
        text: A `Text`, or a plain string together with `source`.
        source: Who wrote a plain string; for a `Text`, which knows, None.
        known: The sources that the policy knows.
        limits: The policy's limits.
        surrogates: What to do about lone surrogates.

    Raises:
        NotTextError: What is given is no string.
        MissingSourceError: A plain string without a source, or a `Text` with one.
        UnknownSourceError: A source that is not in `known`.
        LimitError: More characters than `limits.max_chars`.
        SurrogateError: A lone surrogate under `surrogates: refuse`.
    """
    runs = _label(text, source)
    for name in (source,) if source is not None else {run.source for run in runs}:
        if not isinstance(name, str):
            raise UnknownSourceError(f"A source is named by a str, not by a {type(name).__name__}: source='user'.")
        if name not in known:
            raise UnknownSourceError(
                f"Source {name[:64]!r} is neither built in nor declared by the policy.{near_match(name, known)} "
                "Declare it under `sources`, or use `unknown`."
            )
    if len(text) > limits.max_chars:
        raise LimitError(
            f"The text has {len(text):,} characters and the policy takes at most {limits.max_chars:,}. "
            "Cut it, or raise `limits.max_chars`."
        )
    exact = str.__str__(text)
    data = _encode(exact)
    return _repair(exact, runs, surrogates) if data is None else Intake(exact, data, runs)


def _encode(text: str) -> bytes | None:
    """Return the text as UTF-8, or None where it holds surrogates.

    The error is dropped here, for it quotes the whole text and would be the context of any that is raised later.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _label(text: str, source: str | None) -> tuple[Run, ...]:
    if isinstance(text, Text):
        if source is not None:
            raise MissingSourceError(
                "A Text knows its sources: leave `source` out, or relabel it with Text(text, source=…) if it is one "
                "source's after all."
            )
        return text.runs
    if not isinstance(text, str):
        raise NotTextError(f"A str or a Text is needed, not {type(text).__name__}.")
    if source is None:
        raise MissingSourceError(
            "A plain str does not say who wrote it: pass source='user' (or 'tool_result', 'document' …), or a Text."
        )
    return (Run(0, len(text), source, "", 0),) if text else ()


def _repair(text: str, runs: tuple[Run, ...], surrogates: Surrogates) -> Intake:
    """Join surrogate pairs and replace lone surrogates by U+FFFD; move the runs along."""
    borders = {run.start for last, run in pairwise(runs) if last.source != run.source}
    pieces: list[str] = []
    pairs: list[int] = []  # position of each pair's first half, in the old text
    last = 0
    for found in SURROGATES.finditer(text):
        pieces.append(text[last : found.start()])
        last = found.end()
        unit = found.group()
        # Two sources that write half a character each have written two halves, and no character of either.
        if len(unit) == 2 and found.start() + 1 not in borders:  # noqa: PLR2004 - a surrogate pair has two halves
            pieces.append(unit.encode("utf-16-le", "surrogatepass").decode("utf-16-le"))
            pairs.append(found.start())
        elif surrogates is Surrogates.REFUSE:
            raise SurrogateError(
                f"Character {found.start()} is half a surrogate pair, and the policy says `surrogates: refuse`. "
                "Send well-formed Unicode, or say `surrogates: replace`."
            )
        else:
            pieces.append("\ufffd" * len(unit))
    pieces.append(text[last:])
    repaired = "".join(pieces)
    shared = {run.start - 1 for run in runs[1:]}.intersection(pairs)  # pairs with one half in each of two runs
    return Intake(
        repaired,
        repaired.encode(),
        _move(runs, pairs, shared),
        tuple(old - index for index, old in enumerate(pairs) if old not in shared),
    )


def _move(runs: tuple[Run, ...], pairs: list[int], shared: set[int]) -> tuple[Run, ...]:
    """Return the runs in characters of the repaired text; a pair that two runs spelled becomes a run of its own."""
    moved: list[Run] = []
    for run in runs:
        start = run.start + (run.start - 1 in shared)
        end = run.end - (run.end - 1 in shared)
        low, high = start - bisect_left(pairs, start), end - bisect_left(pairs, end)
        if start < end:
            moved.append(Run(low, high, run.source, run.path, run.offset + start - run.start))
        if end < run.end:
            moved.append(Run(high, high + 1, run.source, run.path, run.offset + end - run.start))
    return tuple(moved)
