r"""Escapes, decoded where they stand: one character of the text after every decoder that somebody downstream may run.

The threat is text that is scanned before it is decoded: `&lt;`, `%3C`, `\u003c`, and towers of them, `&amp;amp;lt;`.
Each is one character here, and its place is the place of the whole escape.
"""

from __future__ import annotations

import re
from functools import cache
from html.entities import html5
from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.views.folds import EXACT, View

if TYPE_CHECKING:
    from collections.abc import Mapping

INTRODUCERS = "&%\\"
"""What an escape begins with."""

_NESTED = 3
"""So deep may an escape's own characters be escapes: `%26%6c%74%3b` is `&lt;`. Its first character may be one without
a bound: `&amp;amp;amp;lt;`."""

_PLAIN_ENTITY = re.compile(r"([A-Za-z][A-Za-z0-9]{1,30});")
_MAX_NAME = 32
_MAX_DIGITS = 16
_SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", '"': '"', "'": "'", "\\": "\\"}
_HEX = frozenset("0123456789abcdefABCDEF")
_DECIMAL = frozenset("0123456789")
_SURROGATES = range(0xD800, 0xE000)
_LOW_SURROGATES = range(0xDC00, 0xE000)
_LAST = 0x10FFFF


def read(text: str, start: int, nested: int = 0) -> tuple[str, int, int]:
    """Return the character that the text spells at `start`, where it ends, and the views that it takes to see it."""
    char, end, views = text[start], start + 1, EXACT
    while char in INTRODUCERS and nested <= _NESTED:
        decoded = _DECODE[char](text, end, nested + 1)
        if decoded is None:
            break
        char, end, more = decoded
        views |= more
    return char, end, views


@cache
def names() -> Mapping[str, str]:
    """Return the characters that HTML has names for, by name, without `&` and `;`."""
    return MappingProxyType({name.rstrip(";"): char for name, char in html5.items() if len(char) == 1})


@cache
def _beginnings() -> frozenset[str]:
    return frozenset(name[:size] for name in names() for size in range(1, len(name) + 1))


@cache
def _bare() -> frozenset[str]:
    """Return the names that HTML takes without their semicolon."""
    return frozenset(name for name in html5 if not name.endswith(";"))


def _decode_entity(text: str, start: int, nested: int) -> tuple[str, int, int] | None:
    plain = _PLAIN_ENTITY.match(text, start)
    if plain is not None and plain[1] in names():
        return names()[plain[1]], plain.end(), View.ENTITY
    name, end, bare = "", start, None
    views: int = View.ENTITY
    while end < len(text) and len(name) < _MAX_NAME:
        char, after, more = read(text, end, nested)
        if char == "#" and not name:
            return _decode_number(text, after, views | more, nested)
        if char == ";" and name in names():
            return names()[name], after, views | more
        name += char
        if name not in _beginnings():
            break
        end, views = after, views | more
        if name in _bare():
            bare = names()[name], end, views
    return bare


def _decode_number(text: str, start: int, views: int, nested: int) -> tuple[str, int, int] | None:
    allowed, base, digits, end = _DECIMAL, 10, "", start
    while end < len(text) and len(digits) < _MAX_DIGITS:
        char, after, more = read(text, end, nested)
        if char in "xX" and not digits and base == 10:  # noqa: PLR2004 - decimal, until an x is seen
            allowed, base = _HEX, 16
        elif char in allowed:
            digits += char
        else:
            if char == ";" and digits:
                end, views = after, views | more
            break
        end, views = after, views | more
    return _as_character(int(digits, base), end, views) if digits else None


def _decode_percent(text: str, start: int, nested: int) -> tuple[str, int, int] | None:
    first = _read_hex(text, start, 2, nested)
    if first is None:
        return None
    value, end, views = first
    views |= View.PERCENT
    size = 1 if value < 0x80 else 2 if value < 0xE0 else 3 if value < 0xF0 else 4  # noqa: PLR2004 - UTF-8
    octets = bytearray([value])
    while len(octets) < size:
        if end >= len(text):
            return None
        sign, after, more = read(text, end, nested)
        following = _read_hex(text, after, 2, nested) if sign == "%" else None
        if following is None:
            return None
        value, end, again = following
        octets.append(value)
        views |= more | again
    try:
        return octets.decode(), end, views
    except UnicodeDecodeError:
        return None


def _decode_backslash(text: str, start: int, nested: int) -> tuple[str, int, int] | None:
    if start >= len(text):
        return None
    kind, end, views = read(text, start, nested) if text[start] != "\\" else ("\\", start + 1, EXACT)
    views |= View.JSON
    if kind in _SIMPLE:
        return _SIMPLE[kind], end, views
    size = {"u": 4, "x": 2, "U": 8}.get(kind)
    if size is None:
        return None
    if kind == "u" and end < len(text):
        sign, after, more = read(text, end, nested)
        if sign == "{":
            return _decode_braces(text, after, views | more, nested)
    found = _read_hex(text, end, size, nested)
    if found is not None and found[0] in _SURROGATES:
        found = _read_pair(text, found, nested) if kind == "u" else None
    return _as_character(found[0], found[1], views | found[2]) if found is not None else None


def _read_pair(text: str, high: tuple[int, int, int], nested: int) -> tuple[int, int, int] | None:
    """Return the character that two escaped surrogates spell, `high` the first of them."""
    value, end, views = high
    for expected in "\\u":
        sign, end, more = read(text, end, nested) if end < len(text) else ("", end, EXACT)
        if sign != expected:
            return None
        views |= more
    low = _read_hex(text, end, 4, nested)
    if low is None or value in _LOW_SURROGATES or low[0] not in _LOW_SURROGATES:
        return None
    return 0x10000 + (value - 0xD800) * 0x400 + low[0] - 0xDC00, low[1], views | low[2]


def _decode_braces(text: str, start: int, views: int, nested: int) -> tuple[str, int, int] | None:
    digits, end = "", start
    while end < len(text) and len(digits) <= _MAX_DIGITS:
        char, end, more = read(text, end, nested)
        views |= more
        if char == "}":
            return _as_character(int(digits, 16), end, views) if digits else None
        if char not in _HEX:
            return None
        digits += char
    return None


def _read_hex(text: str, start: int, size: int, nested: int) -> tuple[int, int, int] | None:
    raw = text[start : start + size]
    if len(raw) == size and raw.isalnum() and raw.isascii():
        return (int(raw, 16), start + size, EXACT) if _HEX.issuperset(raw) else None
    digits, end, views = "", start, EXACT
    while len(digits) < size:
        if end >= len(text):
            return None
        char, end, more = read(text, end, nested)
        if char not in _HEX:
            return None
        digits += char
        views |= more
    return int(digits, 16), end, views


def _as_character(value: int, end: int, views: int) -> tuple[str, int, int] | None:
    return None if value > _LAST or value in _SURROGATES else (chr(value), end, views)


_DECODE = MappingProxyType({"&": _decode_entity, "%": _decode_percent, "\\": _decode_backslash})
