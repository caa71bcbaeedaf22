"""One generator for each attack class: a strategy of cases, and a check that a case still carries its payload.

A generator that loses its payload on the way reports success without having attacked. So what is drawn is asked, by
other means than it was made with, whether the token is still in it; cases that are not asked well are counted apart.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hypothesis import strategies as st

from guardtok.fuzz import strategies as gs
from guardtok.fuzz.attacks import PLAIN
from guardtok.fuzz.case import BATCH, GROWTH, IDS, TEXT, THREADS, Case
from guardtok.fuzz.shapes import CHATS, FIELDS, PARTED
from guardtok.views.folds import hidden_as, readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from guardtok.fuzz.profile import Profile

_DEPTH = 4
"""So many times an escape is decoded."""


@dataclass(frozen=True, slots=True)
class Generator:
    """A source of cases.

    Attributes:
        attack: The attack class.
        cases: What draws them.
        carries: Whether a case still carries its payload.
    """

    attack: str
    cases: st.SearchStrategy[Case]
    carries: Callable[[Case], bool]


def generators(profile: Profile) -> tuple[Generator, ...]:
    """Return the generators that have something to ask of a target, in the order of the attack classes."""
    return tuple(_generators(profile))


def _generators(profile: Profile) -> Iterator[Generator]:
    own = gs.control_tokens(profile.forms)
    form = st.one_of(own, own, gs.foreign_tokens())
    words = profile.words
    content = ("chat: content", "chat: history", "chat: system") if profile.chats else ()
    flat = (TEXT, *content)

    def write(
        attack: str, shapes: tuple[str, ...], carries: Callable[[Case], bool], text: Callable[[str], gs.Drawn]
    ) -> Generator:
        cases = form_for.flatmap(
            lambda token: st.builds(
                lambda shape, parts: Case(attack, shape, parts, token), st.sampled_from(shapes), text(token)
            )
        )
        return Generator(attack, cases, carries)

    form_for = form
    yield Generator(PLAIN, _plain(words), lambda _: True)
    yield write("A1", flat, _spells, lambda token: _one(gs.around(st.just(token), words)))
    if profile.hidden:
        form_for = gs.control_tokens(profile.hidden)
        yield write("A2", flat, _spells, lambda token: _one(gs.around(st.just(token), words)))
        form_for = form
    yield write("A3", (TEXT,), _spells, lambda token: _one(_among(token, words)))
    yield write("A4", flat, _folds, lambda token: _one(gs.around(gs.folded(token), words)))
    yield write("A5", flat, _hides, lambda token: _one(gs.around(gs.inserted(token, gs.HIDDEN), words)))
    yield write("A6", flat, _spells, lambda token: _one(_spaced(token)))
    yield write("A7", flat, _reassembles, lambda token: _one(gs.around(gs.nested(token, form), words)))
    yield write("A8", flat, _marks, lambda token: _one(_marked(token)))
    if profile.chats:
        yield write("A9", (*content, *PARTED), _removes, lambda token: gs.inserted(token, gs.REMOVED).flatmap(_parted))
    yield write("A10", (TEXT, *(PARTED if profile.chats else ())), _spells, _cut)
    if profile.chats:
        yield write("A11", FIELDS, _spells, lambda token: _one(gs.around(st.just(token), words)))
    yield write("A12", flat, _decodes, lambda token: _one(gs.around(gs.escaped(token), words)))
    yield write("A13", (TEXT,), _is_odd, lambda token: _one(_odd(token)))
    yield write("A15", (IDS,), _spells, lambda token: _one(gs.around(st.just(token), words)))
    yield Generator(
        "A16",
        st.builds(
            lambda shape, text: Case("A16", shape, (text,), text.partition("\n")[0]),
            st.sampled_from(flat),
            gs.turns(profile.turns),
        ),
        _spells,
    )
    if profile.media:
        form_for = gs.control_tokens(profile.media)
        yield write("A18", flat, _spells, lambda token: _one(gs.around(st.just(token), words)))
        form_for = form
    yield Generator("A19", _long(form), lambda case: case.repeat > 1)
    yield write("A20", flat, _obeyed, lambda token: _one(_terminal(token)))
    if profile.reserved:
        form_for = gs.control_tokens(profile.reserved)
        yield write("A21", flat, _spells, lambda token: _one(gs.around(st.just(token), words)))
        form_for = form
    yield write("A22", (BATCH, TEXT), _spells, lambda token: _documents(token, words))


def _one(text: st.SearchStrategy[str]) -> gs.Drawn:
    return text.map(lambda each: (each,))


def _plain(words: tuple[str, ...]) -> st.SearchStrategy[Case]:
    text = gs.plain_text(words)
    return st.one_of(
        st.builds(lambda parts: Case(PLAIN, TEXT, tuple(parts)), st.lists(text, min_size=1, max_size=3)),
        st.builds(lambda char: Case(PLAIN, TEXT, (char + "_a",)), gs.code_points()),
        st.builds(
            lambda parts: Case(PLAIN, THREADS, tuple(parts)), st.lists(text, min_size=2, max_size=6, unique=True)
        ),
        st.builds(lambda parts: Case(PLAIN, BATCH, tuple(parts)), st.lists(text, min_size=1, max_size=4)),
    )


def _among(token: str, words: tuple[str, ...]) -> st.SearchStrategy[str]:
    near = st.one_of(st.just(""), st.just("a"), st.just(" "), gs.words(words))
    return st.tuples(near, st.just(token), near).map("".join)


def _spaced(token: str) -> st.SearchStrategy[str]:
    space = st.one_of(st.just(""), st.sampled_from(gs.SPACES), st.just("a"))
    return st.tuples(space, space, st.just(token), space, space).map("".join)


def _marked(token: str) -> st.SearchStrategy[str]:
    sign = st.sampled_from(gs.SENTINELS)
    return st.one_of(st.tuples(sign, st.just(token), sign).map("".join), gs.inserted(token, gs.SENTINELS))


def _parted(text: str) -> gs.Drawn:
    return st.one_of(st.just((text,)), gs.cut(text))


def _cut(token: str) -> gs.Drawn:
    return st.tuples(gs.words(()), gs.cut(token), gs.words(())).map(
        lambda drawn: (drawn[0] + drawn[1][0], drawn[1][1] + drawn[2])
    )


def _odd(token: str) -> st.SearchStrategy[str]:
    odd = st.one_of(
        gs.random_bytes(), gs.spelled_bytes(), st.sampled_from(["\ud83d", "\udc4d", "\ud83d\udc4d", "\0", "\ufffe"])
    )
    return st.tuples(odd, st.sampled_from(["", token]), odd).map("".join)


def _long(form: st.SearchStrategy[str]) -> st.SearchStrategy[Case]:
    runs = gs.long_runs().map(lambda run: Case("A19", TEXT, (run[0],), "", run[1]))
    forms = form.map(lambda token: Case("A19", TEXT, (token,), token, 500))
    growing = st.one_of(st.sampled_from(gs.RUNS), form).map(lambda unit: Case("A19", GROWTH, (unit,), "", 2))
    return st.one_of(runs, forms, growing)


def _terminal(token: str) -> st.SearchStrategy[str]:
    sign = st.sampled_from(gs.TERMINAL)
    return st.tuples(sign, st.just(token), sign).map("".join)


def _documents(token: str, words: tuple[str, ...]) -> gs.Drawn:
    text = gs.plain_text(words, max_pieces=4)
    return st.tuples(text, text).map(lambda two: (two[0] + "\n" + token, two[1], token + two[0]))


def _spells(case: Case) -> bool:
    return case.form in case.text


def _folds(case: Case) -> bool:
    """Whether some fold makes the form of the text: NFKC, case, or a table of look-alikes."""
    if case.form in unicodedata.normalize("NFKC", case.text) or case.form.casefold() in case.text.casefold():
        return True
    open_to = [{reading for reading, _ in readings(char)} for char in case.text]
    form = [next(iter(readings(char)))[0] for char in case.form]
    return any(
        all(char in open_to[start + at] for at, char in enumerate(form))
        for start in range(len(open_to) - len(form) + 1)
    )


def _hides(case: Case) -> bool:
    seen = "".join(char for char in case.text if not hidden_as(char))
    form = "".join(char for char in case.form if not hidden_as(char))
    return case.form not in case.text and form in seen


def _reassembles(case: Case) -> bool:
    """Whether the form is there, or taking something out of the text brings it."""
    text = case.text
    return any(
        text.find(case.form[size:], start + size) >= 0
        for size in range(len(case.form))
        for start in [text.find(case.form[:size])]
        if start >= 0
    )


def _marks(case: Case) -> bool:
    return any(sign in case.text for sign in gs.SENTINELS) and _reassembles(case)


def _removes(case: Case) -> bool:
    removed = case.text
    for piece in gs.REMOVED:
        removed = removed.replace(piece, "")
    form = case.form
    for piece in gs.REMOVED:
        form = form.replace(piece, "")
    return form in removed


def _decodes(case: Case) -> bool:
    text = case.text
    for _ in range(_DEPTH):
        if case.form in text:
            return True
        text = re.sub(r"\\(?:u(?=....)|x)([0-9a-f]{4}|[0-9a-f]{2})", _unescape, unquote(html.unescape(text)))
    return case.form in text


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _is_odd(case: Case) -> bool:
    return bool(re.search("[\ud800-\udfff\0\ufffe]|<0x[0-9A-F]{2}>", case.text)) or not case.text.isascii()


def _obeyed(case: Case) -> bool:
    return _spells(case) and not case.text.isprintable()


def shapes_of(profile: Profile) -> tuple[str, ...]:
    """Return every shape that a target's cases may have."""
    return (TEXT, THREADS, GROWTH, BATCH, IDS, *(CHATS if profile.chats else ()))
