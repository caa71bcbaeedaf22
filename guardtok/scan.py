"""Text → matches: where every form that the ruleset knows occurs, overlapping occurrences too.

Aho-Corasick automata over UTF-8, so the time is linear in the text and the matches whatever an attacker writes. An
alternation of regular expressions has no such bound, and finds a form inside another only by luck.
"""

from __future__ import annotations

import unicodedata
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardtok.intake import Intake
    from guardtok.rules import Rules
    from guardtok.ruleset import Automata, Ruleset
    from guardtok.violation import Match

_END = itemgetter(2)


def scan(intake: Intake, ruleset: Ruleset) -> list[Match]:
    """Return every match in `intake`, positions in characters, ordered by their ends."""
    found = find(intake.data, ruleset.automata)
    if found and len(intake.data) != len(intake.text):
        found = _count_characters(found, intake.data)
    if ruleset.rules is None or ruleset.rules.folding is None:
        return found
    more = _find_folded(intake.text, ruleset.rules)
    return sorted({*found, *more}, key=_END) if more else found


def _find_folded(text: str, rules: Rules) -> list[Match]:
    """Return the forms that the tokenizer's own normaliser makes of characters that do not spell them."""
    normal = rules.tokenizer.normalize(text)
    found = rules.find_folded(normal)
    if not found:
        return []
    if normal == text:
        # What is normal already can still be no spelling of the form: `<t>`, where `<T>` was added and case is folded.
        return [match for match in found if text[match[1] : match[2]] != rules.tokens[match[0]].form]
    _, spans = rules.tokenizer.align(text)
    matches: list[Match] = []
    for form, low, high in found:
        start, end = spans[low][0], max(spans[high - 1][1], spans[low][0] + 1)
        if text[start:end] == rules.tokens[form].form:
            continue
        # A mark that was composed with the last character belongs to it.
        while end < len(text) and unicodedata.combining(text[end]) and (high == len(spans) or end < spans[high][0]):
            end += 1
        matches.append((form, start, end))
    return matches


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
