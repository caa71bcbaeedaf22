"""What one character may be taken for: another width, another case, a look-alike, nothing at all.

The threat is software between this text and a tokenizer that folds characters: a normaliser, a search index, a
copy through a terminal. `<|im_end|>` in full width is harmless here and a turn after NFKC.
"""

from __future__ import annotations

import json
import unicodedata
from enum import IntEnum
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class View(IntEnum):
    """The ways to see a text, as bits: an `int` is a set of them, whose name joins theirs by `+` in this order."""

    ENTITY = 1
    """HTML character references are decoded."""
    PERCENT = 2
    """Percent-encoding (URLs) is decoded."""
    JSON = 4
    """Backslash escapes of JSON, JavaScript and Python are decoded."""
    WIDTH = 8
    """Compatibility characters are replaced by what they stand for (NFKC): full-width letters, ligatures."""
    CASE = 16
    """Upper and lower case are the same."""
    CONFUSABLE = 32
    """Characters that look alike are the same (UTS #39)."""
    INVISIBLE = 64
    """Characters that nobody sees are left out."""
    WHITESPACE = 128
    """White space inside the form is left out."""


EXACT = 0
EVERY = sum(View)
SAFE = View.WIDTH | View.INVISIBLE
"""What even a short or common form is looked for under: nobody writes `</s>` in full width, or with a joiner in it."""

HIDDEN_RUN = "hidden_run"
"""Name of the finding that more than `limits.max_hidden` hidden characters follow the beginning of a form."""

_ALSO_INVISIBLE = frozenset(
    chr(code)
    for low, high in (
        (0x34F, 0x34F),  # combining grapheme joiner
        (0x115F, 0x1160),  # Hangul fillers
        (0x17B4, 0x17B5),  # Khmer inherent vowels
        (0x180B, 0x180F),  # Mongolian variation selectors
        (0x2065, 0x2065),  # unassigned, ignorable by default
        (0x2800, 0x2800),  # blank Braille pattern
        (0x3164, 0x3164),  # Hangul filler
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFFA0, 0xFFA0),  # half-width Hangul filler
        (0xFFF0, 0xFFF8),  # unassigned, ignorable by default
        (0xE0000, 0xE0FFF),  # tags, variation selectors, and what is reserved beside them
    )
    for code in range(low, high + 1)
)
"""Ignorable characters (Default_Ignorable_Code_Point and the blank Braille pattern) that are not of category Cf."""


@lru_cache(maxsize=8192)
def hidden_as(char: str) -> int:
    """Return `INVISIBLE` or `WHITESPACE` for a character that may be left out inside a form, else no view."""
    if char.isspace():
        return View.WHITESPACE
    if unicodedata.category(char) in ("Cf", "Cc") or char in _ALSO_INVISIBLE:
        return View.INVISIBLE
    return EXACT


@lru_cache(maxsize=8192)
def readings(char: str) -> tuple[tuple[str, int], ...]:
    """Return what a character may be taken for, case folded, each with the view that it takes; itself comes first."""
    folded = fold_case(char)
    # U+017F folds to `s` both by case and by NFKC; the latter is what normalisers do.
    found: dict[str, int] = {folded: EXACT} if char.isascii() or not folded.isascii() else {}
    if not char.isascii():
        wide = unicodedata.normalize("NFKC", char)
        found.setdefault(fold_case(wide), View.WIDTH)
        for seen in (char, wide):
            for similar in originals().get(seen, ()):
                found.setdefault(fold_case(similar), View.CONFUSABLE)
    return tuple(found.items())


def views_needed(char: str, reading: int, spelled: str) -> int:
    """Return the views under which `char`, read by `readings` as under `reading`, is exactly `spelled`."""
    match reading:
        case View.WIDTH:
            same = unicodedata.normalize("NFKC", char) == spelled
        case View.CONFUSABLE:
            known = originals()
            same = spelled in known.get(char, ()) or spelled in known.get(unicodedata.normalize("NFKC", char), ())
        case _:
            same = char == spelled
    return reading if same else reading | View.CASE


def fold_case(text: str) -> str:
    """Fold case, one character for each: a character that folds to several stays as it is."""
    folded = text.casefold()
    if len(folded) == len(text):
        return folded
    return "".join(each if len(each.casefold()) != 1 else each.casefold() for each in text)


@cache
def originals() -> Mapping[str, str]:
    """Return for each character beyond ASCII the ASCII characters that it looks like."""
    path = Path(__file__).parent.parent / "data" / "confusables.json"
    found: dict[str, str] = {}
    for char, similar in json.loads(path.read_text("utf-8"))["similar"].items():
        for each in similar:
            found[each] = found.get(each, "") + char
    return MappingProxyType(found)


def disguises_of(char: str) -> frozenset[str]:
    """Return the characters beyond ASCII that may be read as `char` (case folded), or as a string that begins so."""
    found = {*_disguises().get(char, ()), *(other for other in (char, char.upper()) if len(other) == 1)}
    return frozenset(other for other in found if not other.isascii())


@cache
def _disguises() -> Mapping[str, str]:
    """Return by its first character what `readings` may make of characters beyond ASCII; those themselves left out."""
    found: dict[str, str] = {}
    for char, similar in originals().items():
        for each in set(fold_case(similar)):
            found[each] = found.get(each, "") + char
    for char in map(chr, range(0x80, 0x20000)):
        if unicodedata.decomposition(char):
            wide = unicodedata.normalize("NFKC", char)
            for each in {fold_case(wide)[0], *fold_case(originals().get(wide, ""))}:
                found[each] = found.get(each, "") + char
    return MappingProxyType(found)


def name_views(views: int) -> str:
    """Return the name of a set of views: `width+invisible`."""
    return "+".join(view.name.lower() for view in View if view & views)
