"""Text → matches: where every form that the ruleset knows occurs, overlapping occurrences too.

Aho-Corasick automata over UTF-8, so the time is linear in the text and the matches whatever an attacker writes. An
alternation of regular expressions has no such bound, and finds a form inside another only by luck.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardtok.intake import Intake
    from guardtok.ruleset import Automata, Ruleset
    from guardtok.violation import Match

_END = itemgetter(2)


def scan(intake: Intake, ruleset: Ruleset) -> list[Match]:
    """Return every match in `intake`, positions in characters, ordered by their ends."""
    found = find(intake.data, ruleset.automata)
    if not found or len(intake.data) == len(intake.text):
        return found
    return _count_characters(found, intake.data)


def find(data: bytes, automata: Automata) -> list[Match]:
    """Return every match in UTF-8 text, positions in bytes, ordered by their ends."""
    found: list[Match] = []
    for first, automaton in automata:
        more = automaton.find_matches_as_indexes(data, overlapping=True)
        if first and more:
            more = [(first + form, start, end) for form, start, end in more]
        found = sorted(found + more, key=_END) if found and more else found or more
    return found


def _count_characters(found: list[Match], data: bytes) -> list[Match]:
    """Turn byte positions into character positions, decoding each stretch between two of them once."""
    position: dict[int, int] = {}
    last = characters = 0
    for border in sorted({border for _, start, end in found for border in (start, end)}):
        characters += len(data[last:border].decode())
        last = border
        position[border] = characters
    return [(form, position[start], position[end]) for form, start, end in found]
