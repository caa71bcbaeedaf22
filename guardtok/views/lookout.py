"""What is looked for in disguise, and the automata that say where a disguise may begin.

A disguise is rare and its spellings are countless, so they are not listed. What is listed is what a disguise cannot do
without: the undisguised beginning of a form with the first disguised character behind it, or a disguised first
character. Automata find those at the speed of memory; `guardtok.views.search` then reads the text from each such place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from guardtok.views.escapes import INTRODUCERS, names
from guardtok.views.folds import EVERY, SAFE, disguises_of, fold_case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SPACES = b" \t\n\r\x0b\x0c"
CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code not in SPACES)
MARK = b"E"
"""Stands in a shape for a control character, or for a character beyond ASCII: for its first byte, to be exact.

A shape has no capitals, so it is free; and ahocorasick_rs, which skips to the bytes that it holds to be rare, leaves it
alone.
"""

_LEADS = bytes(range(0xC2, 0xF5))
"""The first bytes of the characters beyond ASCII, in UTF-8."""

_INTRODUCERS = tuple(sign.encode() for sign in INTRODUCERS)
_ESCAPES = tuple(
    bytes([first, second])
    for first, seconds in zip(
        b"&%\\", (b"#abcdefghijklmnopqrstuvwxyz%\\", b"0abcdef&\\", b"ux/\\\"'bfnrt&%"), strict=True
    )
    for second in seconds
)
"""The first two bytes of the shapes of escapes. A lone `%` behind a bracket is too frequent to be looked into."""

_DIGITS = tuple(b"%%%d" % digit for digit in range(10))

_HEAD = 4
"""So many first characters of a form are looked for in the text as it is, before its shape is made."""

_NARROW_HEAD = 8
"""The same for forms that are looked for as they are written."""

_MAX_FIRST_BYTES = 3
"""So many different first bytes of patterns ahocorasick_rs can look for without walking its automaton."""

_CLOSING = tuple(")]}>")
_MIN_SIGNIFICANT = 3
"""A form with fewer letters and digits is short: most of its disguises are ordinary text."""


def make_shape(data: bytes) -> bytes:
    """Return UTF-8 text, byte for byte, with case, digits, kinds of white space and of hidden characters made equal."""
    return data.translate(_SHAPE)


def make_tight_shape(data: bytes) -> bytes:
    """Return the shape of UTF-8 text without its white space."""
    return data.translate(_SHAPE, SPACES)


def _shape_of(code: int) -> int:
    if code in SPACES:
        return 0x20
    if code in CONTROLS or code >= 0xC0:  # noqa: PLR2004 - the first byte of a character beyond ASCII
        return MARK[0]
    char = chr(code).lower() if code < 0x80 else ""  # noqa: PLR2004 - ASCII
    return ord("0") if char.isdigit() else ord(char) if char else code


_SAME_DIGITS = str.maketrans("123456789", "000000000")
_SHAPE = bytes(map(_shape_of, range(256)))


@dataclass(frozen=True, slots=True)
class Target:
    """A form that is looked for in disguise.

    Attributes:
        index: Its index in the ruleset.
        text: The form.
        views: The views under which it may be found.
    """

    index: int
    text: str
    views: int


@dataclass(frozen=True, slots=True)
class Lookout:
    """The forms that are looked for in disguise, ready to be found. Made by `prepare`.

    Attributes:
        keys: Every form with its case folded, sorted, each once.
        targets: For each key, the forms that it stands for, by index.
        max_hidden: So many hidden characters may stand between two characters of a form.
        firsts: What the first character of a form, or of its disguise, may be.
        escaped: Automata over text as it is: escapes that may stand for a form's first character.
        quick: Automata over ASCII text as it is: what they and `escaped` miss begins no disguise.
        tight: Automata over shapes: disguises whose first disguised character is no white space.
        gapped: Automata over shapes: disguises whose first disguised character is white space.
        beginnings: The tight shapes of what forms begin with, as far as it is ASCII, but for `wholes` and what holds an
            introducer.
        wholes: The tight shapes of the forms that are ASCII.
        seconds: The second characters of the keys.
        reach: Length of the longest pattern of any of the automata: so far from a place it shows whether it is one.
        heads: Matches each character beyond ASCII that a form may begin with or have its first character disguised as;
            None where there is none.
    """

    keys: tuple[str, ...] = field(repr=False)
    targets: tuple[tuple[Target, ...], ...] = field(repr=False)
    max_hidden: int
    firsts: frozenset[str] = field(repr=False)
    escaped: tuple[BytesAhoCorasick, ...] = field(repr=False)
    quick: tuple[BytesAhoCorasick, ...] = field(repr=False)
    tight: tuple[BytesAhoCorasick, ...] = field(repr=False)
    gapped: tuple[BytesAhoCorasick, ...] = field(repr=False)
    beginnings: frozenset[bytes] = field(repr=False)
    wholes: frozenset[bytes] = field(repr=False)
    seconds: frozenset[str] = field(repr=False)
    reach: int
    heads: re.Pattern[str] | None = field(repr=False)


def views_for(form: str, *, common: bool) -> int:
    """Return the views under which a form is looked for.

    Ordinary documents hold `<S>`, `[ ref ]` and `&lt;image&gt;`, so forms that are common, short, or begin with a
    letter, a digit or a closing bracket are looked for only where no ordinary text spells them. See docs/lookalikes.md.
    """
    short = sum(map(str.isalnum, form)) < _MIN_SIGNIFICANT
    return SAFE if common or short or form[:1].isalnum() or form[:1] in _CLOSING else EVERY


def prepare(forms: Iterable[tuple[str, bool]], max_hidden: int) -> Lookout:
    """Prepare to look for forms in disguise.

    Args:
        forms: Every form of the ruleset, in order, and whether ordinary documents hold it.
        max_hidden: The policy's `limits.max_hidden`.
    """
    by_key: dict[str, list[Target]] = {}
    # By form, its digits made equal: a vocabulary has thousands of numbered forms.
    known: dict[tuple[str, bool], int] = {}
    views: dict[str, int] = {}
    for index, (text, common) in enumerate(forms):
        key = fold_case(text)
        plain = key.translate(_SAME_DIGITS)
        own = known.get((plain, common))
        if own is None:
            own = known[plain, common] = views_for(plain, common=common)
            views[plain] = views.get(plain, 0) | own
        by_key.setdefault(key, []).append(Target(index, text, own))
    keys = sorted(by_key)
    wide = {key for key, own in views.items() if own & ~SAFE}
    narrow = [target.text for targets in by_key.values() for target in targets if target.views == SAFE]
    firsts = {key[0] for key in keys}
    wholes = {make_tight_shape(key.encode()) for key in views if key.isascii()}
    beyond = {char for first in firsts for char in disguises_of(first)}
    escaped = set(_escaped_heads({key[0] for key in wide}))
    quick = {*_quick_patterns([key for key in keys if key.translate(_SAME_DIGITS) in wide]), *_quick_narrow(narrow)}
    tight, gapped = set(_tight_patterns(views, wide)), {start + b" " for start in _beginnings(wide)}
    return Lookout(
        keys=tuple(keys),
        targets=tuple(tuple(by_key[key]) for key in keys),
        max_hidden=max_hidden,
        firsts=frozenset(firsts | {first.upper() for first in firsts} | beyond),
        escaped=_build(escaped),
        quick=_build(quick),
        tight=_build(tight),
        gapped=_build(gapped),
        beginnings=frozenset(_plain_beginnings(views)) - wholes,
        wholes=frozenset(wholes),
        seconds=frozenset(key[1] for key in keys if len(key) > 1),
        reach=max(map(len, escaped | quick | tight | gapped), default=0),
        heads=re.compile(f"[{re.escape(''.join(sorted(beyond)))}]") if beyond else None,
    )


def prepare_quick(lookout: Lookout) -> tuple[BytesAhoCorasick, ...]:
    """Build automata as `lookout.quick` for text beyond ASCII: what they, `escaped` and `heads` miss is no disguise."""
    wide = [key for key, own in zip(lookout.keys, lookout.targets, strict=True) if any(t.views & ~SAFE for t in own)]
    narrow = [target.text for own in lookout.targets for target in own if target.views == SAFE]
    return _build({*_quick_patterns(wide, _LEADS), *_quick_narrow(narrow, _LEADS)})


def _beginnings(keys: Iterable[str]) -> set[bytes]:
    """Return the shapes of all proper beginnings of the keys, as far as they are ASCII; with and without spaces."""
    shapes: set[bytes] = set()
    for key in keys:
        size = min(_ascii_size(key), len(key) - 1)
        for text in {key[:size], "".join(key[:size].split())}:
            shape = make_shape(text.encode())
            shapes.update(shape[:end] for end in range(1, len(shape) + 1))
    return shapes


def _plain_beginnings(keys: Iterable[str]) -> Iterator[bytes]:
    """Yield the tight shapes of all beginnings of the keys, up to what is not ASCII or may begin an escape."""
    for key in keys:
        shape = make_tight_shape(key[: _ascii_size(key)].encode())
        size = next((at for at, code in enumerate(shape) if chr(code) in INTRODUCERS), len(shape))
        yield from (shape[:end] for end in range(1, size + 1))


def _tight_patterns(keys: Iterable[str], wide: Iterable[str]) -> Iterator[bytes]:
    yield from (start + MARK for start in _beginnings(keys))
    for start in _beginnings(wide):
        yield from (start + sign for sign in (_ESCAPES if len(start) == 1 else _INTRODUCERS))
    for key in wide:
        for text in {key, "".join(key.split())}:
            if text.isascii():
                yield make_shape(text.encode())


def _quick_patterns(wide_keys: Sequence[str], beyond: bytes = b"") -> Iterator[bytes]:
    """Yield what text with a disguised wide form holds as it is: its beginning, or one that breaks off early.

    Args:
        wide_keys: The forms, case folded.
        beyond: What characters beyond ASCII may begin with; empty for ASCII text.
    """
    for size in range(1, _HEAD):
        more = {*_ESCAPES, *map(bytes.upper, _ESCAPES), *_DIGITS} if size == 1 else {*_INTRODUCERS}
        more.update(bytes([code]) for code in SPACES + CONTROLS + beyond)
        for start in {key[:size] for key in wide_keys if len(key) > size and key[:size].isascii()}:
            yield from (spelled + sign for spelled in _spellings(start) for sign in more)
    # A form that goes on beyond ASCII at once cannot do so undisguised; one that is short is all there.
    for start in {key[:_HEAD] for key in wide_keys if key[:_HEAD].isascii()}:
        yield from _spellings(start)


def _quick_narrow(texts: Iterable[str], beyond: bytes = b"") -> Iterator[bytes]:
    """Yield the same for the other forms, which in ASCII text have only control characters as a disguise."""
    for text in {text[:_NARROW_HEAD] for text in texts}:
        plain = text[: _ascii_size(text)].encode()
        if len(plain) == len(text):
            yield plain
        for size in range(1, len(plain) + (len(plain) < len(text))):
            yield from (plain[:size] + bytes([code]) for code in CONTROLS + beyond)


def _ascii_size(text: str) -> int:
    """Return how many characters at the beginning are ASCII."""
    return next((at for at, char in enumerate(text) if not char.isascii()), len(text))


def _spellings(text: str) -> Iterator[bytes]:
    """Yield ASCII text in every mixture of upper and lower case."""
    for chars in product(*({char, char.upper()} for char in text)):
        yield "".join(chars).encode()


def _escaped_heads(heads: set[str]) -> Iterator[bytes]:
    """Yield the beginnings of escapes that may stand for a form's first character or for an escape's."""
    wanted = heads.union(INTRODUCERS)
    wanted |= {char for first in wanted for char in disguises_of(first)}
    yield from (b"&" + name.encode() for name, char in names().items() if char in wanted)
    for char in wanted:
        yield from _both_cases(b"%%%02x" % char.encode()[0])
        yield from _both_cases(b"\\u%04x" % ord(char) if ord(char) < 0x10000 else b"\\ud8")  # noqa: PLR2004
        if ord(char) < 0x100:  # noqa: PLR2004 - two hexadecimal digits
            yield from _both_cases(b"\\x%02x" % ord(char))
    yield from (b"&#", b"\\u{", b"\\U000", b"\\\\u", b"\\\\x", b"\\\\U")
    # An escape whose second character is an escape itself.
    for outer, inner in product(INTRODUCERS, ("&#", "%2", "%3", "%4", "%5", "%6", "%7", "\\u", "\\x")):
        yield (outer + inner).encode()


def _both_cases(pattern: bytes) -> Iterator[bytes]:
    """Yield a pattern with its hexadecimal digits in every mixture of case."""
    head = 2 if pattern.startswith(b"\\") else 1
    yield from (pattern[:head] + digits for digits in _spellings(pattern[head:].decode()))


def _build(patterns: set[bytes]) -> tuple[BytesAhoCorasick, ...]:
    """Build automata for the patterns, each for at most three first bytes, which the library can skip to."""
    firsts = sorted({pattern[0] for pattern in patterns})
    groups = [firsts[at : at + _MAX_FIRST_BYTES] for at in range(0, len(firsts), _MAX_FIRST_BYTES)]
    return tuple(
        BytesAhoCorasick(sorted(pattern for pattern in patterns if pattern[0] in group), MatchKind.Standard)
        for group in groups
    )
