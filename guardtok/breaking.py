"""How a form is broken where text goes on as text, and why what comes out is inert.

The threat is an escape that somebody undoes: a zero-width space that a normaliser drops, a full-width letter that
another folds back. So what goes into a form is a visible ASCII character that no fold removes, and it is proven, not
hoped, that no known form can contain it where it was put: a form that held it would hold the characters on both sides
of it too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.errors import PolicyError, Problem, VerificationError
from guardtok.violation import Action, broken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardtok.ruleset import Ruleset

SEPARATORS = ("_", "-", "~", ".")
"""What may go into a form, the first that is inert there. None is white space, invisible or a part of an escape."""

REPLACEMENT = "\ufffd"
"""Stands for a form of one character, which nothing can go into, and in gaps where text could grow together."""

_BORDER = "\ud800"
"""Stands between forms when all are searched in one go; no form holds half a surrogate pair."""

_PLACES = re.compile(f"(?s)(?<=(.))([{re.escape(''.join(SEPARATORS))}])(?=(.))")


@dataclass(frozen=True, slots=True)
class Breaker:
    """Where each separator occurs in the forms. Made by `prove`.

    Attributes:
        places: For each separator, the pairs of characters that it stands between in some form, as written and folded;
            an empty string stands for the form's own border.
    """

    places: dict[str, frozenset[tuple[str, str]]]

    def find_separator(self, left: str, right: str) -> str | None:
        """Return the first separator that no form can hold between these characters, or None.

        Args:
            left: The character before it; several where it may be taken for others.
            right: The character behind it, likewise.
        """
        lefts = {"", *left, *(folded for char in left for folded in _folded(char))}
        rights = {"", *right, *(folded for char in right for folded in _folded(char))}
        for separator, places in self.places.items():
            if not any((a, b) in places for a in lefts for b in rights):
                return separator
        return None

    def separate(self, left: str, right: str) -> str:
        """Return what to put between characters of a form so that no form can reach over it; see `find_separator`.

        Raises:
            VerificationError: Nothing is known to be inert there.
        """
        separator = self.find_separator(left, right)
        if separator is None:
            raise VerificationError(
                "A form could not be broken so that nothing parses. Nothing was returned: block it."
            )
        return separator


def prove(ruleset: Ruleset) -> Breaker:
    """Prove that every form which a source escapes can be broken, and return what breaks it.

    Raises:
        PolicyError: A form that is escaped cannot be broken so that no form comes out, or a form holds U+FFFD where the
            policy needs it to fill gaps.
    """
    texts = [form.text for form in ruleset.forms]
    breaker = Breaker(_places(texts))
    # Thousands of forms begin with a few pairs of characters; only if one fails is it worth asking who escapes it.
    hard = {pair for pair in {text[:2] for text in texts} if len(pair) > 1 and not breaker.find_separator(*pair)}
    filled = any(REPLACEMENT in text for text in texts)
    if hard or filled:
        problems = tuple(_problems(ruleset, hard, filled=filled))
        if problems:
            raise PolicyError(problems)
    return breaker


def escaped_forms(ruleset: Ruleset) -> Iterator[int]:
    """Yield the index of every form that some source escapes."""
    rows = ruleset.table.values()
    return (i for i in range(len(ruleset.forms)) if any(row[i].action is Action.ESCAPE for row in rows))


def _problems(ruleset: Ruleset, hard: set[str], *, filled: bool) -> Iterator[Problem]:
    escaped = [ruleset.forms[index].text for index in escaped_forms(ruleset)]
    for text in escaped:
        if text[:2] in hard:
            yield Problem(
                ruleset.policy.place,
                f"The form {broken(text)!r} (written broken) cannot be escaped in text: every way to break it leaves "
                "something that may be a form.",
                "Block or strip it, or take the form out that the broken spelling runs into.",
            )
    if filled and (ruleset.prefixes or any(len(text) == 1 for text in escaped)):
        yield Problem(
            ruleset.policy.place,
            "A form holds U+FFFD, which has to fill the gaps of `strip` and to stand for forms of one character.",
            "Block these forms in place of stripping or escaping them.",
        )


def _places(texts: Iterable[str]) -> dict[str, frozenset[tuple[str, str]]]:
    listed = [text for text in texts if any(separator in text for separator in SEPARATORS)]
    listed += {folded for text in listed if not (text.isascii() and text.islower()) for folded in _folded(text)}
    joined = _BORDER + _BORDER.join(listed) + _BORDER
    found: dict[str, set[tuple[str, str]]] = {separator: set() for separator in SEPARATORS}
    for left, separator, right in _PLACES.findall(joined):
        found[separator].add((left.strip(_BORDER), right.strip(_BORDER)))
    return {separator: frozenset(places) for separator, places in found.items()}


def _folded(text: str) -> tuple[str, ...]:
    """Return what else a fold may make of a text: small letters, compatibility forms."""
    if text.isascii():
        return (text.lower(),)
    composed = unicodedata.normalize("NFKC", text)
    return composed, composed.casefold()
